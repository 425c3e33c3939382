"""Runs the SQL of the first argument in DuckDB, then the query of the second, and prints its rows as JSON."""
import json
import sys

import duckdb

db = duckdb.connect()
db.execute(sys.argv[1])
print(json.dumps(db.execute(sys.argv[2]).fetchall(), default=str))
