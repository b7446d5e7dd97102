"""DICOM: finding series in a folder, reading them as volumes, writing results that viewers open."""
