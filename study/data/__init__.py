"""Reading, preparing and sampling images: sources, DICOM, splits, shards, plans."""
