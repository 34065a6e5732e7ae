"""What ACME does: decisions and changes, without HTTP. One module per resource."""
