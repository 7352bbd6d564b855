"""Where do they live? From a tenant id, or an identifier that a request shows, to a tenant."""

from .base import Directory, WritableDirectory, check_placements, default_database
from .cached import CachedDirectory
from .static import Loaded, MappingDirectory, from_env, from_file, from_mapping
from .table import TableDirectory

__all__ = [
    "CachedDirectory",
    "Directory",
    "Loaded",
    "MappingDirectory",
    "TableDirectory",
    "WritableDirectory",
    "check_placements",
    "default_database",
    "from_env",
    "from_file",
    "from_mapping",
]
