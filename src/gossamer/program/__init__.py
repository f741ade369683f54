"""Programs: one canonical ATen graph with its signature and tensors; read, edited, saved and run here."""

from gossamer.program.edit import Edit
from gossamer.program.interpreter import Interpreter
from gossamer.program.program import Program
from gossamer.program.storage import load_program, save_program

__all__ = ["Edit", "Interpreter", "Program", "load_program", "save_program"]
