"""The compiled kernels. Import from here only what runs; declarations live one folder up."""
