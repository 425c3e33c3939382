// Package codec turns events into the registry's wire format and back: a zero byte, the schema's id (4 bytes, big
// endian), the value in Avro.
//
// Promise: nothing leaves whose schema the registry does not know, and nothing comes in whose schema the registry does
// not know. A reader sees every event in its own version of the schema, whichever version wrote it. Sizes, counts and
// nesting are checked before anything is allocated for them.
//
// Failure: a decoding error is one of five kinds, for errors.Is. [ErrUndecodable], [ErrTooLarge] and [ErrWrongSchema]
// will not go away: the record belongs in the dead-letter topic ([IsPoison]). [ErrUnknownSchema] is somebody's mistake in
// the registry: pause and alert. [ErrUnavailable] is an outage: wait and try again.
//
// A Codec and its Serdes are safe for concurrent use.
package codec
