"""The whole street on real data that comes with the package: handwritten digits, 8 x 8 pixels, from scikit-learn's copy
of the UCI optical recognition data set (1,797 images, CC BY 4.0, Alpaydin and Kaynak).
"""

from gossamer.demo.digits import load_digits, run_demo, train_network

__all__ = ["load_digits", "run_demo", "train_network"]
