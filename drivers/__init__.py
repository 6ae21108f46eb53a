"""One folder a protocol. A driver imports gateway.{model,options,quality,errors,contracts} and its own library."""
