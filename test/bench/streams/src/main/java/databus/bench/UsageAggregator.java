package databus.bench;

import java.io.File;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import org.apache.avro.Schema;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Utils;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.processor.StreamPartitioner;
import org.apache.kafka.streams.state.RocksDBConfigSetter;
import org.apache.kafka.streams.state.Stores;
import org.rocksdb.BlockBasedTableConfig;
import org.rocksdb.BloomFilter;
import org.rocksdb.Cache;
import org.rocksdb.LRUCache;
import org.rocksdb.Options;
import org.rocksdb.WriteBufferManager;

/**
 * Counts usage events exactly once on Kafka Streams: the peer that databus/services/usage-aggregator is measured against.
 * Same input, same rows (pack and all packs, total and calendar month in UTC), same output events, the same dropping of
 * repeated ids.
 *
 * <p>It is given what it does not do: no contracts are joined, an event that breaks a rule ends it instead of going to
 * a dead-letter topic, and one version of the events' schema is understood.
 *
 * <p>Tuned: static membership, raw bytes as keys and rows, Avro read and written field by field without intermediate
 * objects, one block cache and memtable budget for all stores, Bloom filters, larger fetches and batches than the defaults,
 * lz4.
 */
public final class UsageAggregator {
  static final String COUNTS = "counts";
  static final String SEEN = "seen";

  private UsageAggregator() {}

  public static void main(String[] args) throws Exception {
    if (args.length != 9) {
      System.err.println(
          "usage: UsageAggregator BOOTSTRAP REGISTRY APPLICATION INSTANCE STATE_DIR INPUT OUTPUT COMMIT_MS DEDUP_MS");
      System.exit(2);
    }
    String registry = args[1];
    String input = args[5];
    String output = args[6];
    long commitMillis = Long.parseLong(args[7]);
    long dedupMillis = Long.parseLong(args[8]);
    int eventSchema = schemaId(registry, "usage.events-value");
    int countSchema = schemaId(registry, "usage.counts-value");

    Topology topology = new Topology();
    topology.addSource("events", new ByteArrayDeserializer(), new ByteArrayDeserializer(), input);
    topology.addProcessor("count", () -> new Counting(eventSchema, dedupMillis), "events");
    topology.addStateStore(
        Stores.keyValueStoreBuilder(
                Stores.persistentKeyValueStore(COUNTS), Serdes.ByteArray(), Serdes.ByteArray())
            .withCachingEnabled(),
        "count");
    if (dedupMillis > 0) {
      // Ids are seldom asked for twice, and their rows are read from a cache in RocksDB's own memory: Streams' cache
      // would only hold them a second time.
      topology.addStateStore(
          Stores.keyValueStoreBuilder(
                  Stores.persistentKeyValueStore(SEEN), Serdes.ByteArray(), Serdes.ByteArray())
              .withCachingDisabled(),
          "count");
    }
    StreamPartitioner<byte[], byte[]> byAccount =
        (topic, key, value, partitions) ->
            Optional.of(Set.of(Utils.toPositive(Utils.murmur2(Row.account(key))) % partitions));
    topology.addSink("counted", output, new ByteArraySerializer(), new CountWriter(countSchema), byAccount, "count");

    KafkaStreams streams = new KafkaStreams(topology, settings(args, commitMillis));
    CountDownLatch ended = new CountDownLatch(1);
    streams.setUncaughtExceptionHandler(
        e -> {
          e.printStackTrace();
          ended.countDown();
          return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
    Runtime.getRuntime()
        .addShutdownHook(
            new Thread(
                () -> {
                  streams.close(Duration.ofSeconds(60));
                  ended.countDown();
                }));
    streams.start();
    ended.await();
  }

  private static Properties settings(String[] args, long commitMillis) {
    Properties p = new Properties();
    p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, args[0]);
    p.put(StreamsConfig.APPLICATION_ID_CONFIG, args[2]);
    p.put(StreamsConfig.STATE_DIR_CONFIG, new File(args[4]).getAbsolutePath());
    p.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
    p.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
    p.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, commitMillis);
    p.put(StreamsConfig.POLL_MS_CONFIG, Math.min(100, commitMillis / 2));
    p.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 64L << 20);
    p.put(StreamsConfig.ROCKSDB_CONFIG_SETTER_CLASS_CONFIG, SharedMemory.class);
    p.put(StreamsConfig.BUFFERED_RECORDS_PER_PARTITION_CONFIG, 5000);
    p.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, -1);
    p.put(StreamsConfig.STATE_CLEANUP_DELAY_MS_CONFIG, Long.MAX_VALUE);
    p.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
    p.put(StreamsConfig.mainConsumerPrefix(ConsumerConfig.GROUP_INSTANCE_ID_CONFIG), args[3]);
    p.put(StreamsConfig.mainConsumerPrefix(ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG), 10_000);
    p.put(StreamsConfig.mainConsumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 5000);
    p.put(StreamsConfig.restoreConsumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 10_000);
    p.put(StreamsConfig.producerPrefix(ProducerConfig.TRANSACTION_TIMEOUT_CONFIG), 10_000);
    p.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 128 << 10);
    p.put(StreamsConfig.producerPrefix(ProducerConfig.COMPRESSION_TYPE_CONFIG), "lz4");
    return p;
  }

  /** The id under which the registry knows the newest schema of a subject. */
  private static int schemaId(String registry, String subject) throws Exception {
    URI uri = URI.create(registry + "/subjects/" + subject + "/versions/latest");
    HttpResponse<String> res =
        HttpClient.newHttpClient()
            .send(HttpRequest.newBuilder(uri).timeout(Duration.ofSeconds(20)).build(), HttpResponse.BodyHandlers.ofString());
    if (res.statusCode() != 200) {
      throw new IllegalStateException(uri + " answered " + res.statusCode());
    }
    var body = new com.fasterxml.jackson.databind.ObjectMapper().readTree(res.body());
    Schema schema = new Schema.Parser().parse(body.get("schema").asText());
    String fields =
        subject.startsWith("usage.events") ? EventReader.FIELDS : CountWriter.FIELDS;
    String have = String.join(" ", schema.getFields().stream().map(Schema.Field::name).toList());
    if (!have.equals(fields)) {
      throw new IllegalStateException(subject + " has the fields " + have + ", this program knows " + fields);
    }
    return body.get("id").asInt();
  }

  /** One block cache for all stores, memtables included: as much as the peer's state has. */
  public static final class SharedMemory implements RocksDBConfigSetter {
    private static final Cache CACHE = new LRUCache(128L << 20, -1, false, 0.1);
    private static final WriteBufferManager MEMTABLES = new WriteBufferManager(64L << 20, CACHE);
    private static final BloomFilter FILTER = new BloomFilter(10);

    @Override
    public void setConfig(String store, Options options, Map<String, Object> configs) {
      BlockBasedTableConfig table = (BlockBasedTableConfig) options.tableFormatConfig();
      table.setBlockCache(CACHE);
      table.setFilterPolicy(FILTER);
      table.setCacheIndexAndFilterBlocks(true);
      table.setCacheIndexAndFilterBlocksWithHighPriority(true);
      table.setPinTopLevelIndexAndFilter(true);
      options.setTableFormatConfig(table);
      options.setWriteBufferManager(MEMTABLES);
    }

    @Override
    public void close(String store, Options options) {}
  }
}
