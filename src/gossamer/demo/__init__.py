"""The whole street on real data that comes with the package.

Handwritten digits, 1,797 scans of 8 x 8 pixels: scikit-learn's copy of the test part of the UCI data set "Optical
Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998, CC BY 4.0).
"""

from gossamer.demo.digits import load_digits, run_demo, train_network

__all__ = ["load_digits", "run_demo", "train_network"]
