"""One thread and no display, so that every run is the same everywhere."""

import matplotlib
import torch

matplotlib.use("Agg")
torch.set_num_threads(1)
