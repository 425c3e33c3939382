package databus.bench;

import java.lang.invoke.MethodHandles;
import java.lang.invoke.VarHandle;
import java.nio.ByteOrder;
import java.util.Arrays;

/**
 * A row of the counts: six numbers of eight bytes, then for each provider the length of its name, the name and three numbers.
 * Its key is account/pack/period.
 */
final class Row {
  static final int START = 0; // of the period, microseconds
  static final int END = 8; // 0 for none
  static final int MATCHED = 16;
  static final int UNMATCHED = 24;
  static final int AMOUNT = 32;
  static final int UPDATED = 40; // append time of the newest event, microseconds
  static final int FIXED = 48;

  private static final VarHandle LONG =
      MethodHandles.byteArrayViewVarHandle(long[].class, ByteOrder.BIG_ENDIAN);

  private Row() {}

  static long get(byte[] row, int field) {
    return (long) LONG.get(row, field);
  }

  static void set(byte[] row, int field, long value) {
    LONG.set(row, field, value);
  }

  /**
   * Adds to a provider's part of a row, in order of names: to the row itself where it has the provider, else to a longer
   * one, which is returned.
   */
  static byte[] addProvider(byte[] row, byte[] name, int length, long matched, long unmatched, long amount) {
    int at = FIXED;
    while (at < row.length) {
      int n = row[at];
      int order = Arrays.compare(row, at + 1, at + 1 + n, name, 0, length);
      if (order == 0) {
        add(row, at + 1 + n, matched, unmatched, amount);
        return row;
      }
      if (order > 0) {
        break;
      }
      at += 1 + n + 24;
    }
    byte[] longer = new byte[row.length + 1 + length + 24];
    System.arraycopy(row, 0, longer, 0, at);
    longer[at] = (byte) length;
    System.arraycopy(name, 0, longer, at + 1, length);
    System.arraycopy(row, at, longer, at + 1 + length + 24, row.length - at);
    add(longer, at + 1 + length, matched, unmatched, amount);
    return longer;
  }

  private static void add(byte[] row, int at, long matched, long unmatched, long amount) {
    set(row, at, get(row, at) + matched);
    set(row, at + 8, get(row, at + 8) + unmatched);
    set(row, at + 16, get(row, at + 16) + amount);
  }

  static byte[] account(byte[] key) {
    return Arrays.copyOf(key, slash(key, 0));
  }

  static int slash(byte[] key, int from) {
    for (int i = from; i < key.length; i++) {
      if (key[i] == '/') {
        return i;
      }
    }
    return key.length;
  }
}
