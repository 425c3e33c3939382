package databus.bench;

import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import org.apache.avro.Schema;

/** Schemas by id, by the Confluent API. */
record Registry(String url) {
  Schema schema(int id) throws IOException {
    try {
      var request = HttpRequest.newBuilder(URI.create(url + "/schemas/ids/" + id)).build();
      var response = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
      if (response.statusCode() != 200) {
        throw new IOException("schema " + id + ": the registry answers " + response.statusCode());
      }
      return new Schema.Parser().parse(new ObjectMapper().readTree(response.body()).get("schema").asText());
    } catch (InterruptedException e) {
      throw new IOException(e);
    }
  }
}
