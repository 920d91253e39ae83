"""From YAML files to objects: `files` reads and merges, `registry` knows the names, `build` checks and makes everything."""
