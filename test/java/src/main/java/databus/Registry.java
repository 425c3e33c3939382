package databus;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import org.apache.avro.Schema;

/** Schemas by id from a registry's Confluent API; each is asked for once. */
final class Registry {
  private final String base;
  private final HttpClient http = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(10)).build();
  private final ObjectMapper json = new ObjectMapper();
  private final Map<Integer, Schema> known = new HashMap<>();

  Registry(String base) {
    this.base = base;
  }

  Schema byId(int id) throws IOException, InterruptedException {
    Schema schema = known.get(id);
    if (schema == null) {
      schema = fetch(id);
      known.put(id, schema);
    }
    return schema;
  }

  private Schema fetch(int id) throws IOException, InterruptedException {
    URI uri = URI.create(base + "/schemas/ids/" + id);
    HttpResponse<String> res =
        http.send(
            HttpRequest.newBuilder(uri).timeout(Duration.ofSeconds(20)).build(),
            HttpResponse.BodyHandlers.ofString());
    if (res.statusCode() != 200) {
      throw new IOException("schema id " + id + ": " + uri + " answered " + res.statusCode());
    }
    JsonNode body = json.readTree(res.body());
    JsonNode type = body.get("schemaType"); // absent means Avro
    if (type != null && !type.isNull() && !type.asText().equals("AVRO")) {
      throw new IOException("schema id " + id + ": of type " + type.asText() + ", not Avro");
    }
    JsonNode references = body.get("references");
    if (references != null && !references.isEmpty()) {
      throw new IOException("schema id " + id + ": it refers to other schemas, which this reader does not follow");
    }
    return new Schema.Parser().parse(body.get("schema").asText());
  }
}
