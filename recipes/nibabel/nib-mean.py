#!/usr/bin/python3
"""Print the mean voxel value of each image that is named."""
import sys

import nibabel
import numpy

for path in sys.argv[1:]:
    print(f"{path} {numpy.asanyarray(nibabel.load(path).dataobj).mean():.6f}")
