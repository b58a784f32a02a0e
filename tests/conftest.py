"""Settings of the whole suite."""

import os

# Matrices here are tiny and tests run side by side: a second thread would only wait for the first. Before numpy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
