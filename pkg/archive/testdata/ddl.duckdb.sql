CREATE OR REPLACE VIEW "every_type" AS
SELECT * FROM read_parquet('s3://bucket/archive/every.type/dt=*/hr=*/*.parquet',
  hive_partitioning = true, hive_types = {'dt': DATE, 'hr': VARCHAR}, union_by_name = true);
