"""Import of folders of NIfTI files as datasets, with pseudonymous ids."""
