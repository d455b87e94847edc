"""Images that lie by the thousand in larger files: shards of WebDataset, tables of parquet; reading them, and making them."""
