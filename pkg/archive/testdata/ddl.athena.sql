CREATE EXTERNAL TABLE IF NOT EXISTS `every_type` (
  `_partition` int,
  `_offset` bigint,
  `_timestamp` timestamp,
  `_key` binary,
  `_headers` array<struct<key:string,value:binary>>,
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
  `ns` timestamp,
  `lms` timestamp,
  `dec` decimal(12,3),
  `id` string,
  `either` struct<int:int,string:string,C:struct<c:bigint>>,
  `tags` array<string>,
  `Map` map<string,struct<x:int,y:array<bigint>>>
)
PARTITIONED BY (`dt` string, `hr` string)
STORED AS PARQUET
LOCATION 's3://bucket/archive/every.type/'
TBLPROPERTIES (
  'parquet.compression' = 'ZSTD',
  'projection.enabled' = 'true',
  'projection.dt.type' = 'date',
  'projection.dt.format' = 'yyyy-MM-dd',
  'projection.dt.range' = '2026-01-02,NOW+1DAY',
  'projection.dt.interval' = '1',
  'projection.dt.interval.unit' = 'DAYS',
  'projection.hr.type' = 'integer',
  'projection.hr.range' = '0,23',
  'projection.hr.digits' = '2',
  'storage.location.template' = 's3://bucket/archive/every.type/dt=${dt}/hr=${hr}/'
);
