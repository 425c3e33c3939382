package databus.bench;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.util.List;
import java.util.Map;
import org.apache.avro.Schema;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.hadoop.conf.Configuration;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.parquet.conf.ParquetConfiguration;
import org.apache.parquet.hadoop.api.WriteSupport;
import org.apache.parquet.io.api.Binary;
import org.apache.parquet.io.api.RecordConsumer;
import org.apache.parquet.schema.LogicalTypeAnnotation;
import org.apache.parquet.schema.LogicalTypeAnnotation.TimeUnit;
import org.apache.parquet.schema.MessageType;
import org.apache.parquet.schema.PrimitiveType.PrimitiveTypeName;
import org.apache.parquet.schema.Types;

/**
 * Reads Avro's binary form into columns, field by field, without a record in between: several times as fast as
 * parquet-avro. It knows flat records of the types that the bench has; any other is an exception.
 */
final class RecordColumns extends WriteSupport<ConsumerRecord<byte[], byte[]>> {
  private static final int META = 4;

  private final int schemaId;
  private final Field[] fields;
  private final MessageType message;
  private RecordConsumer out;
  private BinaryDecoder decoder;
  private ByteBuffer buffer;

  /** One field: its type but null, and the branch of null, or -1. */
  private record Field(String name, Schema.Type type, int nullBranch, boolean union, Binary[] symbols) {}

  RecordColumns(int schemaId, Schema schema) {
    this.schemaId = schemaId;
    List<Schema.Field> all = schema.getFields();
    fields = new Field[all.size()];
    var columns =
        Types.buildMessage()
            .required(PrimitiveTypeName.INT32).named("_partition")
            .required(PrimitiveTypeName.INT64).named("_offset")
            .required(PrimitiveTypeName.INT64).as(LogicalTypeAnnotation.timestampType(true, TimeUnit.MILLIS)).named("_timestamp")
            .optional(PrimitiveTypeName.BINARY).named("_key");
    for (int i = 0; i < fields.length; i++) {
      Schema type = all.get(i).schema();
      int none = -1;
      boolean union = type.getType() == Schema.Type.UNION;
      if (union) {
        none = type.getTypes().get(0).getType() == Schema.Type.NULL ? 0 : 1;
        if (type.getTypes().size() != 2 || type.getTypes().get(none).getType() != Schema.Type.NULL) {
          throw new IllegalArgumentException("the union " + type);
        }
        type = type.getTypes().get(1 - none);
      }
      String name = all.get(i).name();
      Binary[] symbols = null;
      boolean micros = type.getLogicalType() != null && type.getLogicalType().getName().equals("timestamp-micros");
      switch (type.getType()) {
        case INT -> columns.optional(PrimitiveTypeName.INT32).named(name);
        case LONG -> {
          var column = columns.optional(PrimitiveTypeName.INT64);
          (micros ? column.as(LogicalTypeAnnotation.timestampType(true, TimeUnit.MICROS)) : column).named(name);
        }
        case BYTES -> columns.optional(PrimitiveTypeName.BINARY).named(name);
        case STRING -> columns.optional(PrimitiveTypeName.BINARY).as(LogicalTypeAnnotation.stringType()).named(name);
        case ENUM -> {
          columns.optional(PrimitiveTypeName.BINARY).as(LogicalTypeAnnotation.stringType()).named(name);
          symbols = type.getEnumSymbols().stream().map(Binary::fromString).toArray(Binary[]::new);
        }
        default -> throw new IllegalArgumentException("the type " + type);
      }
      fields[i] = new Field(name, type.getType(), none, union, symbols);
    }
    message = columns.named("record");
  }

  @Override
  @SuppressWarnings("deprecation") // abstract
  public WriteContext init(Configuration configuration) {
    return new WriteContext(message, Map.of());
  }

  @Override
  public WriteContext init(ParquetConfiguration configuration) {
    return new WriteContext(message, Map.of());
  }

  @Override
  public void prepareForWrite(RecordConsumer consumer) {
    out = consumer;
  }

  @Override
  public void write(ConsumerRecord<byte[], byte[]> r) {
    byte[] value = r.value();
    if (value.length < 5 || value[0] != 0 || ByteBuffer.wrap(value).getInt(1) != schemaId) {
      throw new IllegalArgumentException("a value of another schema at offset " + r.offset());
    }
    out.startMessage();
    out.startField("_partition", 0);
    out.addInteger(r.partition());
    out.endField("_partition", 0);
    out.startField("_offset", 1);
    out.addLong(r.offset());
    out.endField("_offset", 1);
    out.startField("_timestamp", 2);
    out.addLong(r.timestamp());
    out.endField("_timestamp", 2);
    if (r.key() != null) {
      out.startField("_key", 3);
      out.addBinary(Binary.fromConstantByteArray(r.key()));
      out.endField("_key", 3);
    }
    try {
      decoder = DecoderFactory.get().binaryDecoder(value, 5, value.length - 5, decoder);
      for (int i = 0; i < fields.length; i++) {
        Field f = fields[i];
        if (f.union && decoder.readIndex() == f.nullBranch) {
          continue;
        }
        out.startField(f.name, META + i);
        switch (f.type) {
          case INT -> out.addInteger(decoder.readInt());
          case LONG -> out.addLong(decoder.readLong());
          case ENUM -> out.addBinary(f.symbols[decoder.readEnum()]);
          default -> { // a string's bytes are those of bytes
            buffer = decoder.readBytes(buffer);
            out.addBinary(Binary.fromReusedByteArray(buffer.array(), 0, buffer.limit()));
          }
        }
        out.endField(f.name, META + i);
      }
    } catch (IOException e) {
      throw new UncheckedIOException("at offset " + r.offset(), e);
    }
    out.endMessage();
  }
}
