"""Files <-> the waist: volumes, photographs and DICOM, read and written without moving a voxel in space."""
