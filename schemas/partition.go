package schemas

// PartitionKey returns the part of a record's key that chooses its partition. Topics outside of the catalogue are
// partitioned by the whole key.
func PartitionKey(topic string, key []byte) []byte {
	by := partitionBy[topic]
	if by == 0 {
		return key
	}
	for i, c := range key {
		if c != '/' {
			continue
		}
		if by--; by == 0 {
			return key[:i]
		}
	}
	return key
}

// Partition returns the partition of a key among n: murmur2 of the partition key, as Kafka's default partitioner
// computes it, so that every client that follows the catalogue agrees.
func Partition(topic string, key []byte, n int32) int32 {
	return int32(Murmur2(PartitionKey(topic, key))&0x7fffffff) % n
}

// partitionBy is derived from the catalogue once and read only: the look-up is on the producers' hot path.
var partitionBy = func() map[string]int {
	m := map[string]int{}
	for _, t := range WithDeadLetters() {
		m[t.Name] = t.PartitionBy
	}
	return m
}()

// Murmur2 is the 32-bit hash of Kafka's default partitioner (org.apache.kafka.common.utils.Utils.murmur2).
func Murmur2(b []byte) uint32 {
	const (
		seed = 0x9747b28c
		m    = 0x5bd1e995
		r    = 24
	)
	h := seed ^ uint32(len(b))
	for len(b) >= 4 {
		k := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
		b = b[4:]
		k *= m
		k ^= k >> r
		k *= m
		h *= m
		h ^= k
	}
	switch len(b) {
	case 3:
		h ^= uint32(b[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(b[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(b[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	h ^= h >> 15
	return h
}

// ValidAccount reports whether an account id has the form that keys rely on: 1 to 64 characters of [A-Za-z0-9._-].
func ValidAccount(account string) bool {
	if len(account) == 0 || len(account) > 64 {
		return false
	}
	for i := range len(account) {
		if !ofAccount[account[i]] {
			return false
		}
	}
	return true
}

// ofAccount are the bytes of an account id.
var ofAccount = func() (is [256]bool) {
	for _, b := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") {
		is[b] = true
	}
	return is
}()
