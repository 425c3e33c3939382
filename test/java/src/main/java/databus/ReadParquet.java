package databus;

import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedWriter;
import java.io.IOException;
import java.io.StringWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HexFormat;
import java.util.List;
import java.util.stream.Stream;
import org.apache.parquet.conf.PlainParquetConfiguration;
import org.apache.parquet.example.data.Group;
import org.apache.parquet.hadoop.ParquetReader;
import org.apache.parquet.hadoop.api.ReadSupport;
import org.apache.parquet.hadoop.example.GroupReadSupport;
import org.apache.parquet.io.InputFile;
import org.apache.parquet.io.LocalInputFile;
import org.apache.parquet.schema.GroupType;
import org.apache.parquet.schema.LogicalTypeAnnotation.ListLogicalTypeAnnotation;
import org.apache.parquet.schema.LogicalTypeAnnotation.MapLogicalTypeAnnotation;
import org.apache.parquet.schema.LogicalTypeAnnotation.StringLogicalTypeAnnotation;
import org.apache.parquet.schema.Type;

/**
 * Reads each file *.parquet below a directory and writes beside it FILE.ndjson, a JSON object for each row: columns by name in
 * their order, null where nothing is there, numbers as they are stored, strings as strings, other bytes as "b:" and their
 * hex, lists as arrays, maps as arrays of pairs in their order.
 *
 * <p>Usage: ReadParquet DIR. A file that cannot be read ends it with exit code 1.
 */
public final class ReadParquet {
  private static final ObjectMapper JSON = new ObjectMapper();

  private ReadParquet() {}

  public static void main(String[] args) throws IOException {
    List<Path> files;
    try (Stream<Path> all = Files.walk(Path.of(args[0]))) {
      files = all.filter(p -> p.toString().endsWith(".parquet")).sorted().toList();
    }
    for (Path file : files) {
      try {
        read(file);
      } catch (IOException | RuntimeException e) {
        throw new IOException("reading " + file, e);
      }
    }
  }

  private static final class Rows extends ParquetReader.Builder<Group> {
    Rows(InputFile file) {
      super(file, new PlainParquetConfiguration());
    }

    @Override
    protected ReadSupport<Group> getReadSupport() {
      return new GroupReadSupport();
    }
  }

  private static void read(Path file) throws IOException {
    Path to = Path.of(file + ".ndjson");
    try (var reader = new Rows(new LocalInputFile(file)).usePageChecksumVerification(true).build();
        BufferedWriter out = Files.newBufferedWriter(to)) {
      for (Group row = reader.read(); row != null; row = reader.read()) {
        var text = new StringWriter();
        try (JsonGenerator json = JSON.createGenerator(text)) {
          group(json, row);
        }
        out.write(text.toString());
        out.newLine();
      }
    }
  }

  private static void group(JsonGenerator json, Group g) throws IOException {
    json.writeStartObject();
    GroupType type = g.getType();
    for (int i = 0; i < type.getFieldCount(); i++) {
      json.writeFieldName(type.getFieldName(i));
      if (g.getFieldRepetitionCount(i) == 0) {
        json.writeNull();
      } else {
        value(json, g, i, 0);
      }
    }
    json.writeEndObject();
  }

  private static void value(JsonGenerator json, Group g, int field, int at) throws IOException {
    Type type = g.getType().getType(field);
    var logical = type.getLogicalTypeAnnotation();
    if (type.isPrimitive()) {
      switch (type.asPrimitiveType().getPrimitiveTypeName()) {
        case BOOLEAN -> json.writeBoolean(g.getBoolean(field, at));
        case INT32 -> json.writeNumber(g.getInteger(field, at));
        case INT64 -> json.writeNumber(g.getLong(field, at));
        case FLOAT -> json.writeNumber((double) g.getFloat(field, at));
        case DOUBLE -> json.writeNumber(g.getDouble(field, at));
        default -> {
          var bytes = g.getBinary(field, at);
          json.writeString(
              logical instanceof StringLogicalTypeAnnotation
                  ? bytes.toStringUsingUTF8()
                  : "b:" + HexFormat.of().formatHex(bytes.getBytes()));
        }
      }
      return;
    }
    Group inner = g.getGroup(field, at);
    if (logical instanceof ListLogicalTypeAnnotation) {
      json.writeStartArray();
      for (int i = 0; i < inner.getFieldRepetitionCount(0); i++) {
        optional(json, inner.getGroup(0, i), 0);
      }
      json.writeEndArray();
    } else if (logical instanceof MapLogicalTypeAnnotation) {
      json.writeStartArray();
      for (int i = 0; i < inner.getFieldRepetitionCount(0); i++) {
        Group pair = inner.getGroup(0, i);
        json.writeStartArray();
        optional(json, pair, 0);
        optional(json, pair, 1);
        json.writeEndArray();
      }
      json.writeEndArray();
    } else {
      group(json, inner);
    }
  }

  private static void optional(JsonGenerator json, Group g, int field) throws IOException {
    if (g.getFieldRepetitionCount(field) == 0) {
      json.writeNull();
    } else {
      value(json, g, field, 0);
    }
  }
}
