package databus.bench;

import java.io.IOException;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.util.Utf8;

/**
 * One usage event, read from the registry's wire format field by field into reused objects: about three times as fast as
 * Avro's SpecificDatumReader.
 */
final class EventReader {
  static final String FIELDS =
      "event_id account pack occurred_at quantity status endpoint provider amount_micros";
  private static final long EARLIEST = 946_684_800_000_000L; // the year 2000
  private static final long DAY_MICROS = 86_400_000_000L;
  private static final long MAX_QUANTITY = 1_000_000_000_000L;
  private static final long MAX_AMOUNT = 1_000_000_000_000_000L;

  private final int schemaId;
  private BinaryDecoder decoder;

  Utf8 eventId = new Utf8();
  Utf8 account = new Utf8();
  Utf8 pack = new Utf8();
  long occurredAt;
  long quantity;
  int status;
  Utf8 provider = new Utf8();
  boolean hasProvider;
  long amountMicros;

  EventReader(int schemaId) {
    this.schemaId = schemaId;
  }

  void read(byte[] b) throws IOException {
    if (b.length < 5 || b[0] != 0) {
      throw new IOException("no message in wire format");
    }
    int id = (b[1] & 0xff) << 24 | (b[2] & 0xff) << 16 | (b[3] & 0xff) << 8 | b[4] & 0xff;
    if (id != schemaId) {
      throw new IOException("schema id " + id + ", expected " + schemaId);
    }
    decoder = DecoderFactory.get().binaryDecoder(b, 5, b.length - 5, decoder);
    eventId = decoder.readString(eventId);
    account = decoder.readString(account);
    pack = decoder.readString(pack);
    occurredAt = decoder.readLong();
    quantity = decoder.readLong();
    status = decoder.readInt();
    decoder.skipString(); // endpoint
    hasProvider = decoder.readIndex() == 1;
    if (hasProvider) {
      provider = decoder.readString(provider);
    }
    amountMicros = decoder.readLong();
    if (!decoder.isEnd()) {
      throw new IOException("bytes are left behind the value");
    }
  }

  /** The rules of an event that was appended at a moment. */
  void check(byte[] key, long appendedMillis) throws IOException {
    if (eventId.getByteLength() == 0
        || eventId.getByteLength() > 128
        || !name(account)
        || !name(pack)
        || hasProvider && !name(provider)
        || quantity == 0
        || Math.abs(quantity) > MAX_QUANTITY
        || Math.abs(amountMicros) > MAX_AMOUNT
        || occurredAt < EARLIEST
        || occurredAt > appendedMillis * 1000 + DAY_MICROS
        || !java.util.Arrays.equals(account.getBytes(), 0, account.getByteLength(), key, 0, key.length)) {
      throw new IOException("the event breaks a rule");
    }
  }

  private static boolean name(Utf8 s) {
    int n = s.getByteLength();
    byte[] b = s.getBytes();
    for (int i = 0; i < n; i++) {
      int c = b[i];
      if (!(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c == '.' || c == '_' || c == '-')) {
        return false;
      }
    }
    return n > 0 && n <= 64;
  }
}
