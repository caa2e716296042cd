"""Tables of Apache Iceberg and Delta Lake, read through their own libraries as files with rows."""
