"""From YAML files to objects: `files` reads and merges, `registry` holds the names, `build` checks and builds everything."""
