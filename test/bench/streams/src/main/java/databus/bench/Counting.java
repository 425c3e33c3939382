package databus.bench;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.time.LocalDate;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import org.apache.avro.util.Utf8;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.processor.internals.InternalProcessorContext;
import org.apache.kafka.streams.processor.internals.ProcessorNode;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.internals.WrappedStateStore;

/**
 * Counts the events of one partition. A changed row is emitted when the cache writes it, at a commit or where the cache
 * is full: the hook that the DSL's tables use for the same purpose.
 */
final class Counting implements Processor<byte[], byte[], byte[], byte[]> {
  private static final byte[] ALL_PACKS = {'*'};
  private static final byte[] TOTAL = "total".getBytes(StandardCharsets.US_ASCII);
  private static final long BUCKET_MILLIS = Duration.ofHours(12).toMillis();

  private final EventReader event;
  private final long dedupMillis;
  private KeyValueStore<byte[], byte[]> counts;
  private KeyValueStore<byte[], byte[]> seen;

  // The calendar month of the event before: most events fall into the same.
  private long monthStart;
  private long monthEnd;
  private byte[] month = new byte[0];

  /** Buckets of append time that may hold ids: a look-up elsewhere would find nothing. Null until the first look. */
  private Set<Long> filled;

  Counting(int eventSchema, long dedupMillis) {
    this.event = new EventReader(eventSchema);
    this.dedupMillis = dedupMillis;
  }

  @Override
  public void init(ProcessorContext<byte[], byte[]> context) {
    counts = context.getStateStore(UsageAggregator.COUNTS);
    forwardFlushed(context);
    if (dedupMillis > 0) {
      seen = context.getStateStore(UsageAggregator.SEEN);
      context.schedule(Duration.ofMinutes(1), PunctuationType.WALL_CLOCK_TIME, this::expire);
    }
  }

  @SuppressWarnings("unchecked")
  private void forwardFlushed(ProcessorContext<byte[], byte[]> context) {
    InternalProcessorContext<byte[], byte[]> internal = (InternalProcessorContext<byte[], byte[]>) context;
    ProcessorNode<?, ?, ?, ?> self = internal.currentNode();
    boolean cached =
        ((WrappedStateStore<?, byte[], byte[]>) (Object) counts)
            .setFlushListener(
                record -> {
                  ProcessorNode<?, ?, ?, ?> before = internal.currentNode();
                  internal.setCurrentNode(self);
                  try {
                    context.forward(
                        new Record<>(
                            record.key(),
                            CountWriter.join(record.key(), record.value().newValue),
                            record.timestamp()));
                  } finally {
                    internal.setCurrentNode(before);
                  }
                },
                false);
    if (!cached) {
      throw new IllegalStateException("the store of counts is not cached");
    }
  }

  @Override
  public void process(Record<byte[], byte[]> record) {
    try {
      event.read(record.value());
      event.check(record.key(), record.timestamp());
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    if (dedupMillis > 0 && repeated(record.timestamp())) {
      return;
    }
    long at = event.occurredAt;
    if (at < monthStart || at >= monthEnd) {
      LocalDate first =
          LocalDate.ofInstant(Instant.ofEpochSecond(Math.floorDiv(at, 1_000_000L)), ZoneOffset.UTC).withDayOfMonth(1);
      monthStart = first.toEpochDay() * 86_400_000_000L;
      monthEnd = first.plusMonths(1).toEpochDay() * 86_400_000_000L;
      month = ("month:" + first.toString().substring(0, 7)).getBytes(StandardCharsets.US_ASCII);
    }
    byte[] pack = event.pack.getBytes();
    int packLength = event.pack.getByteLength();
    add(pack, packLength, TOTAL, 0, 0, record.timestamp());
    add(ALL_PACKS, 1, TOTAL, 0, 0, record.timestamp());
    add(pack, packLength, month, monthStart, monthEnd, record.timestamp());
    add(ALL_PACKS, 1, month, monthStart, monthEnd, record.timestamp());
  }

  private void add(byte[] pack, int packLength, byte[] period, long start, long end, long appended) {
    Utf8 account = event.account;
    int n = account.getByteLength();
    byte[] key = new byte[n + packLength + period.length + 2];
    System.arraycopy(account.getBytes(), 0, key, 0, n);
    key[n] = '/';
    System.arraycopy(pack, 0, key, n + 1, packLength);
    key[n + 1 + packLength] = '/';
    System.arraycopy(period, 0, key, n + 2 + packLength, period.length);

    byte[] have = counts.get(key);
    byte[] row = have == null ? new byte[Row.FIXED] : have.clone();
    Row.set(row, Row.START, start);
    Row.set(row, Row.END, end);
    int field = event.status == 200 ? Row.MATCHED : Row.UNMATCHED;
    Row.set(row, field, Row.get(row, field) + event.quantity);
    Row.set(row, Row.AMOUNT, Row.get(row, Row.AMOUNT) + event.amountMicros);
    Row.set(row, Row.UPDATED, Math.max(Row.get(row, Row.UPDATED), appended * 1000));
    if (event.hasProvider) {
      row =
          Row.addProvider(
              row,
              event.provider.getBytes(),
              event.provider.getByteLength(),
              event.status == 200 ? event.quantity : 0,
              event.status == 200 ? 0 : event.quantity,
              event.amountMicros);
    }
    counts.put(key, row);
  }

  /** Says whether the event's id occurred within the window, and remembers it if not. */
  private boolean repeated(long at) {
    if (filled == null) {
      filled = new HashSet<>();
      for (long b = (at - dedupMillis) / BUCKET_MILLIS; b <= at / BUCKET_MILLIS + 1; b++) {
        try (KeyValueIterator<byte[], byte[]> i = seen.range(bucket(b), bucket(b + 1))) {
          if (i.hasNext()) {
            filled.add(b);
          }
        }
      }
    }
    long bucket = at / BUCKET_MILLIS;
    for (long b = bucket + 1; b >= (at - dedupMillis) / BUCKET_MILLIS; b--) {
      if (!filled.contains(b)) {
        continue;
      }
      byte[] first = seen.get(id(b));
      if (first != null && at - Row.get(first, 0) < dedupMillis) {
        return true;
      }
    }
    filled.add(bucket);
    byte[] row = new byte[8];
    Row.set(row, 0, at);
    seen.put(id(bucket), row);
    return false;
  }

  private static byte[] bucket(long b) {
    byte[] key = new byte[9];
    for (int i = 7; i >= 0; i--) {
      key[i] = (byte) ('0' + b % 10);
      b /= 10;
    }
    key[8] = '/';
    return key;
  }

  private byte[] id(long b) {
    int a = event.account.getByteLength();
    int n = event.eventId.getByteLength();
    byte[] key = java.util.Arrays.copyOf(bucket(b), 9 + a + 1 + n);
    System.arraycopy(event.account.getBytes(), 0, key, 9, a);
    key[9 + a] = '/';
    System.arraycopy(event.eventId.getBytes(), 0, key, 10 + a, n);
    return key;
  }

  /** Deletes ids of buckets that are wholly out of the window, some at a time. */
  private void expire(long now) {
    long keep = (now - dedupMillis) / BUCKET_MILLIS - 1;
    List<byte[]> old = new ArrayList<>();
    try (KeyValueIterator<byte[], byte[]> i = seen.range(bucket(0), bucket(Math.max(0, keep)))) {
      while (i.hasNext() && old.size() < 100_000) {
        KeyValue<byte[], byte[]> row = i.next();
        old.add(row.key);
      }
    }
    old.forEach(seen::delete);
  }
}
