"""Messages of the public API as frozen records: one record per protobuf message, with one converter each way."""
