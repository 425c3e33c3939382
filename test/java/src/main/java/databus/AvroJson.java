package databus;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.ByteBuffer;
import java.util.Collection;
import java.util.Map;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericEnumSymbol;
import org.apache.avro.generic.GenericFixed;
import org.apache.avro.generic.IndexedRecord;

/**
 * Plain JSON of a generic Avro value: a union is its value without a type name, bytes and fixed are standard Base64, logical
 * types are their underlying numbers and strings, NaN and infinities are strings.
 */
final class AvroJson {
  private static final JsonNodeFactory F = JsonNodeFactory.instance;

  private AvroJson() {}

  static JsonNode of(Object v) {
    if (v == null) {
      return F.nullNode();
    }
    if (v instanceof IndexedRecord r) {
      ObjectNode o = F.objectNode();
      for (Schema.Field f : r.getSchema().getFields()) {
        o.set(f.name(), of(r.get(f.pos())));
      }
      return o;
    }
    if (v instanceof Collection<?> c) {
      ArrayNode a = F.arrayNode();
      c.forEach(e -> a.add(of(e)));
      return a;
    }
    if (v instanceof Map<?, ?> m) {
      ObjectNode o = F.objectNode();
      m.forEach((k, e) -> o.set(k.toString(), of(e)));
      return o;
    }
    if (v instanceof ByteBuffer b) {
      byte[] bytes = new byte[b.remaining()];
      b.duplicate().get(bytes);
      return F.binaryNode(bytes);
    }
    if (v instanceof GenericFixed f) {
      return F.binaryNode(f.bytes());
    }
    if (v instanceof CharSequence || v instanceof GenericEnumSymbol) {
      return F.textNode(v.toString());
    }
    if (v instanceof Boolean b) {
      return F.booleanNode(b);
    }
    if (v instanceof Integer i) {
      return F.numberNode(i);
    }
    if (v instanceof Long l) {
      return F.numberNode(l);
    }
    if (v instanceof Float f) {
      return Float.isFinite(f) ? F.numberNode(f) : F.textNode(f.toString());
    }
    if (v instanceof Double d) {
      return Double.isFinite(d) ? F.numberNode(d) : F.textNode(d.toString());
    }
    throw new IllegalArgumentException("no JSON for an Avro value of " + v.getClass());
  }
}
