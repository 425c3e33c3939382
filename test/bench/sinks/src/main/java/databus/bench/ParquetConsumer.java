package databus.bench;

import java.io.IOException;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.avro.Schema;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.parquet.column.ParquetProperties;
import org.apache.parquet.conf.ParquetConfiguration;
import org.apache.parquet.conf.PlainParquetConfiguration;
import org.apache.parquet.hadoop.ParquetWriter;
import org.apache.parquet.hadoop.api.WriteSupport;
import org.apache.parquet.hadoop.metadata.CompressionCodecName;
import org.apache.parquet.io.LocalOutputFile;
import org.apache.parquet.io.OutputFile;
import software.amazon.awssdk.auth.credentials.AwsBasicCredentials;
import software.amazon.awssdk.auth.credentials.StaticCredentialsProvider;
import software.amazon.awssdk.core.sync.RequestBody;
import software.amazon.awssdk.http.apache5.Apache5HttpClient;
import software.amazon.awssdk.regions.Region;
import software.amazon.awssdk.services.s3.S3Client;

/**
 * Copies topics to Parquet objects with parquet-java, as one would write it by hand: a consumer on each core, a file for each
 * partition, which is uploaded after so many rows or a second without records, and then the offset is committed. A crash
 * between the two leaves rows in two objects; there are no manifest, no dead letters, no transactions and no second schema. Columns are those of
 * the archive but for headers; values go from Avro's binary form to the columns without an object in between.
 *
 * <p>Usage: ParquetConsumer BROKERS REGISTRY GROUPS ENDPOINT REGION KEY SECRET BUCKET DIR ROWS THREADS TOPIC... It works as the first of
 * the groups, names divided by commas, until a line comes on standard input, then as the next: so the second finds a JVM
 * that is warm. Objects of a group are below its name. Whatever fails ends it with exit code 1.
 */
public final class ParquetConsumer implements Runnable {
  private static final int ROW_GROUP = 32 << 20;
  private static final Duration POLL = Duration.ofMillis(200);
  private static final long IDLE_NANOS = 1_000_000_000L;

  private final String group;
  private final AtomicBoolean stop;
  private final Map<String, Object> config;
  private final String registry;
  private final S3Client s3;
  private final String bucket;
  private final Path dir;
  private final long rows;
  private final List<String> topics;
  private final Map<Integer, Schema> schemas;
  private final Map<TopicPartition, Open> open = new HashMap<>();
  private KafkaConsumer<byte[], byte[]> consumer;

  private ParquetConsumer(String[] args, String group, S3Client s3, Map<Integer, Schema> schemas, AtomicBoolean stop) {
    this.group = group;
    this.stop = stop;
    config = new HashMap<>();
    config.put("bootstrap.servers", args[0]);
    config.put("group.id", group);
    config.put("isolation.level", "read_committed");
    config.put("enable.auto.commit", "false");
    config.put("auto.offset.reset", "earliest");
    config.put("max.poll.records", "5000");
    registry = args[1];
    this.s3 = s3;
    this.schemas = schemas;
    bucket = args[7];
    dir = Path.of(args[8]);
    rows = Long.parseLong(args[9]);
    topics = List.of(args).subList(11, args.length);
  }

  public static void main(String[] args) throws Exception {
    S3Client s3 =
        S3Client.builder()
            .endpointOverride(URI.create(args[3]))
            .region(Region.of(args[4]))
            .credentialsProvider(StaticCredentialsProvider.create(AwsBasicCredentials.create(args[5], args[6])))
            .forcePathStyle(true)
            .httpClient(Apache5HttpClient.create())
            .build();
    Files.createDirectories(Path.of(args[8]));
    Map<Integer, Schema> schemas = new ConcurrentHashMap<>();
    for (String group : args[2].split(",")) {
      AtomicBoolean stop = new AtomicBoolean();
      List<Thread> threads = new ArrayList<>();
      for (int i = 0; i < Integer.parseInt(args[10]); i++) {
        Thread t = new Thread(new ParquetConsumer(args, group, s3, schemas, stop), group + "-" + i);
        t.setUncaughtExceptionHandler(
            (thread, e) -> {
              e.printStackTrace();
              Runtime.getRuntime().halt(1);
            });
        t.start();
        threads.add(t);
      }
      while (System.in.read() != '\n') {}
      stop.set(true);
      for (Thread t : threads) {
        t.join();
      }
    }
  }

  /** A file that is being written, and where it begins. */
  private static final class Open {
    final Path path;
    final ParquetWriter<ConsumerRecord<byte[], byte[]>> writer;
    long next;
    long rows;

    Open(Path path, ParquetWriter<ConsumerRecord<byte[], byte[]>> writer) {
      this.path = path;
      this.writer = writer;
    }
  }

  @Override
  public void run() {
    try {
      consume();
    } catch (IOException e) {
      throw new java.io.UncheckedIOException(e);
    }
  }

  private void consume() throws IOException {
    consumer = new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    consumer.subscribe(
        topics,
        new ConsumerRebalanceListener() {
          @Override
          public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            try {
              for (TopicPartition p : partitions) {
                close(p);
              }
            } catch (IOException e) {
              throw new java.io.UncheckedIOException(e);
            }
          }

          @Override
          public void onPartitionsAssigned(Collection<TopicPartition> partitions) {}
        });
    long last = System.nanoTime();
    while (!stop.get()) {
      var polled = consumer.poll(POLL);
      if (!polled.isEmpty()) {
        last = System.nanoTime();
      }
      for (TopicPartition p : polled.partitions()) {
        for (ConsumerRecord<byte[], byte[]> r : polled.records(p)) {
          Open file = open.get(p);
          if (file == null) {
            file = begin(p, r);
            open.put(p, file);
          }
          file.writer.write(r);
          file.next = r.offset() + 1;
          if (++file.rows >= rows) {
            close(p);
          }
        }
      }
      if (!open.isEmpty() && System.nanoTime() - last > IDLE_NANOS) {
        for (TopicPartition p : List.copyOf(open.keySet())) {
          close(p);
        }
      }
    }
    consumer.close();
  }

  private Open begin(TopicPartition p, ConsumerRecord<byte[], byte[]> first) throws IOException {
    int id = java.nio.ByteBuffer.wrap(first.value()).getInt(1);
    Schema schema = schemas.get(id);
    if (schema == null) {
      schema = new Registry(registry).schema(id);
      schemas.put(id, schema);
    }
    Path path = dir.resolve(String.format("%s+%d+%020d.parquet", p.topic(), p.partition(), first.offset()));
    Files.deleteIfExists(path);
    return new Open(path, new Builder(new LocalOutputFile(path), new RecordColumns(id, schema)).build());
  }

  private void close(TopicPartition p) throws IOException {
    Open file = open.remove(p);
    if (file == null) {
      return;
    }
    file.writer.close();
    String key = group + "/" + p.topic() + "/" + file.path.getFileName();
    s3.putObject(b -> b.bucket(bucket).key(key), RequestBody.fromFile(file.path));
    Files.delete(file.path);
    consumer.commitSync(Map.of(p, new OffsetAndMetadata(file.next)));
  }

  private static final class Builder extends ParquetWriter.Builder<ConsumerRecord<byte[], byte[]>, Builder> {
    private final WriteSupport<ConsumerRecord<byte[], byte[]>> support;

    Builder(OutputFile file, WriteSupport<ConsumerRecord<byte[], byte[]>> support) {
      super(file);
      this.support = support;
      ParquetConfiguration conf = new PlainParquetConfiguration();
      conf.set("parquet.compression.codec.zstd.level", "1"); // ours has the same
      withConf(conf);
      withCompressionCodec(CompressionCodecName.ZSTD);
      withRowGroupSize((long) ROW_GROUP); // ours has the same; eight files are open at a time
      withWriterVersion(ParquetProperties.WriterVersion.PARQUET_1_0);
    }

    @Override
    protected Builder self() {
      return this;
    }

    @Override
    @SuppressWarnings("deprecation") // abstract
    protected WriteSupport<ConsumerRecord<byte[], byte[]>> getWriteSupport(org.apache.hadoop.conf.Configuration conf) {
      return support;
    }

    @Override
    protected WriteSupport<ConsumerRecord<byte[], byte[]>> getWriteSupport(ParquetConfiguration conf) {
      return support;
    }
  }
}
