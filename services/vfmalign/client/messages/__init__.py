"""Messages of the public API as frozen records: one record per protobuf message.

Converters exist in both directions.
"""
