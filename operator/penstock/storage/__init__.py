"""Objects: files and folders that steps give, people's own data, cache entries; in S3, GCS, Azure or a folder.

`objects.open_store` opens what `settings.StoreSettings` names. Who runs what is not known here: executions are uids.
"""
