package databus.bench;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.EncoderFactory;
import org.apache.kafka.common.serialization.Serializer;

/**
 * Turns a changed row into a UsageCount in the registry's wire format. What it is given is the row behind the
 * key and the key's length, because a serializer of values does not see keys.
 */
final class CountWriter implements Serializer<byte[]> {
  static final String FIELDS =
      "account pack period period_start period_end contract_version matched unmatched amount_micros provisional"
          + " estimated updated_at providers";

  private static final ThreadLocal<Buffer> BUFFERS = ThreadLocal.withInitial(Buffer::new);

  private static final class Buffer {
    final ByteArrayOutputStream out = new ByteArrayOutputStream(256);
    BinaryEncoder encoder;
  }

  private final int schemaId;

  CountWriter(int schemaId) {
    this.schemaId = schemaId;
  }

  static byte[] join(byte[] key, byte[] row) {
    byte[] b = new byte[2 + key.length + row.length];
    b[0] = (byte) (key.length >>> 8);
    b[1] = (byte) key.length;
    System.arraycopy(key, 0, b, 2, key.length);
    System.arraycopy(row, 0, b, 2 + key.length, row.length);
    return b;
  }

  @Override
  public byte[] serialize(String topic, byte[] keyAndRow) {
    Buffer buffer = BUFFERS.get();
    ByteArrayOutputStream out = buffer.out;
    out.reset();
    out.write(0);
    out.write(schemaId >>> 24);
    out.write(schemaId >>> 16);
    out.write(schemaId >>> 8);
    out.write(schemaId);
    BinaryEncoder e = EncoderFactory.get().directBinaryEncoder(out, buffer.encoder);
    buffer.encoder = e;
    int row = 2 + ((keyAndRow[0] & 0xff) << 8 | keyAndRow[1] & 0xff); // where the key ends
    int pack = Row.slash(keyAndRow, 2) + 1;
    int period = Row.slash(keyAndRow, pack) + 1;
    try {
      e.writeBytes(keyAndRow, 2, pack - 1 - 2); // a string's encoding is that of its bytes
      e.writeBytes(keyAndRow, pack, period - 1 - pack);
      e.writeBytes(keyAndRow, period, row - period);
      e.writeLong(Row.get(keyAndRow, row + Row.START));
      long end = Row.get(keyAndRow, row + Row.END);
      if (end == 0) {
        e.writeIndex(0);
      } else {
        e.writeIndex(1);
        e.writeLong(end);
      }
      e.writeLong(0); // no contract
      e.writeLong(Row.get(keyAndRow, row + Row.MATCHED));
      e.writeLong(Row.get(keyAndRow, row + Row.UNMATCHED));
      e.writeLong(Row.get(keyAndRow, row + Row.AMOUNT));
      e.writeBoolean(false);
      e.writeBoolean(false);
      e.writeLong(Row.get(keyAndRow, row + Row.UPDATED));
      writeProviders(e, keyAndRow, row + Row.FIXED);
      e.flush();
    } catch (IOException ex) {
      throw new UncheckedIOException(ex);
    }
    return out.toByteArray();
  }

  private static void writeProviders(BinaryEncoder e, byte[] b, int from) throws IOException {
    int count = 0;
    for (int at = from; at < b.length; at += 1 + b[at] + 24) {
      count++;
    }
    if (count > 0) {
      e.writeLong(count); // one block
      for (int at = from; at < b.length; ) {
        int n = b[at];
        e.writeBytes(b, at + 1, n);
        at += 1 + n;
        for (int i = 0; i < 3; i++, at += 8) {
          e.writeLong(Row.get(b, at));
        }
      }
    }
    e.writeLong(0); // no further block
  }
}
