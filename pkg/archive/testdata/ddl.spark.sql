-- Spark has no nanoseconds: such timestamps are numbers.
SET spark.sql.legacy.parquet.nanosAsLong = true;

CREATE TABLE IF NOT EXISTS `every_type` (
  `_partition` int,
  `_offset` bigint,
  `_timestamp` timestamp,
  `_key` binary,
  `_headers` array<struct<`key`: string,`value`: binary>>,
  `_tombstone` boolean,
  `b` boolean,
  `i` int,
  `l` bigint,
  `f` float,
  `d` double,
  `bytes` binary,
  `text` string,
  `fix` binary,
  `kind` string,
  `date` date,
  `tm` int,
  `tu` bigint,
  `ms` timestamp,
  `us` timestamp,
  `ns` bigint,
  `lms` timestamp_ntz,
  `dec` decimal(12,3),
  `id` string,
  `either` struct<`int`: int,`string`: string,`C`: struct<`c`: bigint>>,
  `tags` array<string>,
  `Map` map<string,struct<`x`: int,`y`: array<bigint>>>,
  `dt` date,
  `hr` string
)
USING parquet
PARTITIONED BY (`dt`, `hr`)
LOCATION 's3://bucket/archive/every.type';

-- Makes new hours visible: run it again whenever they should be.
MSCK REPAIR TABLE `every_type`;
