package databus;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Reads a topic from its beginning to its end as it is at the start, committed records only, with the stock consumer, and
 * prints one JSON object a line: partition, offset, timestamp (ms), key, headers, schemaId, schema, value (see AvroJson; null
 * for a tombstone). Values are Avro in the registry's wire format: a zero byte, the schema id in four bytes, the datum.
 *
 * <p>Usage: ReadTopic BOOTSTRAP REGISTRY TOPIC [SECONDS]. Anything that cannot be read ends it with exit code 1 and the record's
 * partition and offset on standard error.
 */
public final class ReadTopic {
  private static final ObjectMapper JSON = new ObjectMapper();

  private ReadTopic() {}

  public static void main(String[] args) {
    if (args.length < 3 || args.length > 4) {
      System.err.println("usage: ReadTopic BOOTSTRAP REGISTRY TOPIC [SECONDS]");
      System.exit(2);
    }
    long seconds = args.length == 4 ? Long.parseLong(args[3]) : 60;
    PrintStream out = new PrintStream(new BufferedOutputStream(System.out, 1 << 16), false, StandardCharsets.UTF_8);
    try {
      long n = read(args[0], new Registry(args[1]), args[2], Duration.ofSeconds(seconds), out);
      out.flush();
      if (out.checkError()) {
        throw new IOException("writing the output failed");
      }
      System.err.println("read " + n + " records of " + args[2]);
    } catch (Exception e) {
      out.flush();
      System.err.println("reading " + args[2] + ": " + e);
      for (Throwable c = e.getCause(); c != null; c = c.getCause()) {
        System.err.println("  because: " + c);
      }
      System.exit(1);
    }
  }

  private static long read(String bootstrap, Registry registry, String topic, Duration limit, PrintStream out)
      throws Exception {
    Map<String, Object> config =
        Map.of(
            "bootstrap.servers", bootstrap,
            "isolation.level", "read_committed",
            "enable.auto.commit", "false",
            "auto.offset.reset", "none",
            "allow.auto.create.topics", "false",
            "check.crcs", "true",
            "default.api.timeout.ms", "20000");
    long deadline = System.nanoTime() + limit.toNanos();
    try (var consumer = new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
      List<TopicPartition> partitions =
          consumer.partitionsFor(topic).stream().map(p -> new TopicPartition(topic, p.partition())).toList();
      if (partitions.isEmpty()) {
        throw new IOException("the topic does not exist");
      }
      consumer.assign(partitions);
      consumer.seekToBeginning(partitions);
      Map<TopicPartition, Long> end = consumer.endOffsets(partitions); // read_committed: the last stable offset
      long n = 0;
      while (partitions.stream().anyMatch(p -> consumer.position(p) < end.get(p))) {
        if (System.nanoTime() > deadline) {
          throw new IOException("not at the end " + end + " after " + limit.toSeconds() + " s");
        }
        for (ConsumerRecord<byte[], byte[]> r : consumer.poll(Duration.ofMillis(500))) {
          if (r.offset() >= end.get(new TopicPartition(r.topic(), r.partition()))) {
            continue;
          }
          try {
            out.println(JSON.writeValueAsString(json(r, registry)));
          } catch (IOException | RuntimeException e) {
            throw new IOException("partition " + r.partition() + " offset " + r.offset(), e);
          }
          n++;
        }
      }
      return n;
    }
  }

  private static ObjectNode json(ConsumerRecord<byte[], byte[]> r, Registry registry)
      throws IOException, InterruptedException {
    ObjectNode o = JSON.createObjectNode();
    o.put("partition", r.partition()).put("offset", r.offset()).put("timestamp", r.timestamp());
    o.put("key", text(r.key()));
    ArrayNode headers = o.putArray("headers");
    for (Header h : r.headers()) {
      headers.addObject().put("name", h.key()).put("value", h.value()); // Base64
    }
    byte[] value = r.value();
    if (value == null) {
      o.putNull("value");
      return o;
    }
    if (value.length < 5 || value[0] != 0) {
      throw new IOException("the value is not in the registry's wire format");
    }
    int id = ByteBuffer.wrap(value, 1, 4).getInt();
    Schema schema = registry.byId(id);
    o.put("schemaId", id).put("schema", schema.getFullName());
    BinaryDecoder in = DecoderFactory.get().binaryDecoder(value, 5, value.length - 5, null);
    o.set("value", AvroJson.of(new GenericDatumReader<>(schema).read(null, in)));
    if (!in.isEnd()) {
      throw new IOException("bytes are left after the datum of schema id " + id);
    }
    return o;
  }

  /** Keys are UTF-8; bytes that are not are an error rather than replaced. */
  private static String text(byte[] b) throws CharacterCodingException {
    if (b == null) {
      return null;
    }
    CharBuffer chars = StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(b));
    return chars.toString();
  }
}
