package schemas

import (
	"slices"
	"strings"
	"time"
)

// Cleanup is a topic's cleanup.policy.
type Cleanup string

const (
	Delete  Cleanup = "delete"
	Compact Cleanup = "compact"
)

// A Topic is a row of the catalogue.
type Topic struct {
	// Name of the topic, and with "-value" appended the registry's subject (TopicNameStrategy).
	Name string
	// Key says what the record key is made of; parts are separated by "/". Keys are UTF-8 strings.
	Key string
	// PartitionBy is how many leading parts of the key choose the partition; 0 means the whole key.
	PartitionBy int
	// Schema names the Avro schema of the value (see [Avro]); empty for raw bytes.
	Schema string
	// Partitions is the number of partitions; topics that are joined have equal numbers.
	Partitions int32
	Cleanup    Cleanup
	// Retention is retention.ms for a deleted topic; 0 for a compacted one.
	Retention time.Duration
	// MinCompactionLag is min.compaction.lag.ms: how long every version of a key stays readable at least.
	MinCompactionLag time.Duration
	// MaxCompactionLag is max.compaction.lag.ms: how long an event that a later one of its key replaced stays on disk at
	// most, the active segment included; 0 sets no bound.
	MaxCompactionLag time.Duration
	// AppendTime says that the broker sets the timestamp (message.timestamp.type=LogAppendTime).
	AppendTime bool
	// Producers and Consumers name services, "api" for callers outside of Databus and "cli" for operators' commands.
	Producers, Consumers []string
	// Personal lists fields that are personal data, Pseudonymous those that are pseudonymous; sealed fields are neither.
	Personal, Pseudonymous []string
	// DeadLetters says that the topic has a dead-letter topic beside it.
	DeadLetters bool
	Doc         string
}

// Names of all topics.
const (
	IdentityRequests     = "identity.requests"
	IdentityResolutions  = "identity.resolutions"
	IdentityObservations = "identity.observations"
	IdentityGraphs       = "identity.graphs"
	IdentityChanges      = "identity.changes"

	DatabusRecords   = "databus.records"
	DatabusDatabases = "databus.databases"

	ArchiveFiles = "archive.files"

	RebuildRequests = "rebuild.requests"
	RebuildTasks    = "rebuild.tasks"
	RebuildResults  = "rebuild.results"
	RebuildEvents   = "rebuild.events"
	RebuilderTable  = "rebuilder-table"

	CatchupRequests = "catchup.requests"
	CatchupTasks    = "catchup.tasks"
	CatchupResults  = "catchup.results"
	CatchupEvents   = "catchup.events"
	CatchupTable    = "catchup-table"

	UsageEvents           = "usage.events"
	UsageContracts        = "usage.contracts"
	UsageBaselineRequests = "usage.baseline-requests"
	UsageBaselines        = "usage.baselines"
	UsageCounts           = "usage.counts"
	UsageThresholds       = "usage.thresholds"
	UsageLimits           = "usage.limits"

	UsageAggregatorChangelog = "usage-aggregator.changelog"
	LimiterChangelog         = "limiter.changelog"
	IngestChangelog          = "ingest.changelog"

	KeysEvents = "keys.events"
)

const day = 24 * time.Hour

// Catalogue returns every topic but the dead-letter topics, which [WithDeadLetters] adds. The order is the data flow's.
func Catalogue() []Topic {
	return []Topic{
		{Name: IdentityRequests, Key: "account/record key", Schema: "resolve_request", Partitions: 8, Cleanup: Delete, Retention: 7 * day, AppendTime: true, // a producer's slow clock must not let retention have it at once
			Producers: []string{"api"}, Consumers: []string{"ingest"}, Pseudonymous: []string{"key"}, DeadLetters: true,
			Doc: "Records to resolve, sealed to ingest's public key."},
		{Name: IdentityResolutions, Key: "request id", Schema: "resolution", Partitions: 8, Cleanup: Delete, Retention: day,
			Producers: []string{"ingest"}, Consumers: []string{"api"}, Pseudonymous: []string{"record_key", "fcid", "person_id"},
			Doc: "Answers to resolve requests."},
		{Name: DatabusRecords, Key: "account/record key", Schema: "databus_record", Partitions: 8, Cleanup: Delete, Retention: 7 * day, AppendTime: true,
			Producers: []string{"ingest"}, Consumers: []string{"ingest", "archiver", "catchup"}, Pseudonymous: []string{"key", "record_key"}, DeadLetters: true,
			Doc: "The Databus: every version of every record, sealed. Its offsets are the order of a record's versions."},
		{Name: IdentityObservations, Key: "evidence id", Schema: "observation", Partitions: 8, Cleanup: Compact,
			Producers: []string{"ingest", "cli"}, Consumers: []string{"cli"}, Pseudonymous: []string{"key", "identifiers"},
			Doc: "Evidence about identifiers, the newest per evidence id."},
		{Name: IdentityGraphs, Key: "graph version", Schema: "graph_version", Partitions: 1, Cleanup: Compact,
			Producers: []string{"cli"}, Consumers: []string{"ingest", "rebuilder", "catchup"},
			Doc: "Graph versions and their files."},
		{Name: IdentityChanges, Key: "FCID", Schema: "fcid_change", Partitions: 8, Cleanup: Delete, Retention: 30 * day,
			Producers: []string{"cli"}, Consumers: []string{"api", "cli"}, Pseudonymous: []string{"key", "from_fcid", "to_fcid", "aliases"},
			Doc: "Persons that merged, split or got another id between two graph versions, with their PersonIDs before and after."},
		{Name: DatabusDatabases, Key: "database version", Schema: "database_version", Partitions: 1, Cleanup: Compact,
			Producers: []string{"rebuilder", "catchup", "cli"}, Consumers: []string{"ingest", "rebuilder", "catchup"},
			Doc: "Versions of the serving database and which one serves."},
		{Name: ArchiveFiles, Key: "topic/partition/first offset", PartitionBy: 2, Schema: "archive_file", Partitions: 8, Cleanup: Compact,
			Producers: []string{"archiver"}, Consumers: []string{"rebuilder", "catchup", "usage-history", "cli"},
			Doc: "The archive's manifest: one event per object."},
		{Name: RebuildRequests, Key: "job id", Schema: "rebuild_request", Partitions: 4, Cleanup: Delete, Retention: 30 * day,
			Producers: []string{"api", "cli"}, Consumers: []string{"rebuilder"}, DeadLetters: true, Doc: "Asks for a new database version."},
		{Name: RebuildTasks, Key: "job id/task number", Schema: "rebuild_task", Partitions: 4, Cleanup: Delete, Retention: 30 * day,
			Producers: []string{"rebuilder"}, Consumers: []string{"rebuilder"}, DeadLetters: true, Doc: "Parts of a rebuild, shared by the rebuilder's instances."},
		{Name: RebuildResults, Key: "job id", Schema: "rebuild_result", Partitions: 4, Cleanup: Delete, Retention: 30 * day,
			Producers: []string{"rebuilder"}, Consumers: []string{"rebuilder"}, DeadLetters: true, Doc: "What became of a rebuild's tasks."},
		{Name: RebuildEvents, Key: "job id", Schema: "rebuild_event", Partitions: 4, Cleanup: Delete, Retention: 30 * day,
			Producers: []string{"rebuilder"}, Consumers: []string{"api", "cli"}, Doc: "Progress and end of rebuilds."},
		{Name: RebuilderTable, Key: "job id", Schema: "job_state", Partitions: 4, Cleanup: Compact,
			Producers: []string{"rebuilder"}, Consumers: []string{"rebuilder", "cli"}, Doc: "State machine of each rebuild (goka group table)."},
		{Name: CatchupRequests, Key: "job id", Schema: "catchup_request", Partitions: 4, Cleanup: Delete, Retention: 30 * day,
			Producers: []string{"api", "cli"}, Consumers: []string{"catchup"}, DeadLetters: true, Doc: "Asks for a database version to be brought up to date."},
		{Name: CatchupTasks, Key: "job id/task number", Schema: "catchup_task", Partitions: 4, Cleanup: Delete, Retention: 30 * day,
			Producers: []string{"catchup"}, Consumers: []string{"catchup"}, DeadLetters: true, Doc: "Partition ranges to apply, shared by catch-up's instances."},
		{Name: CatchupResults, Key: "job id", Schema: "catchup_result", Partitions: 4, Cleanup: Delete, Retention: 30 * day,
			Producers: []string{"catchup"}, Consumers: []string{"catchup"}, DeadLetters: true, Doc: "What became of a catch-up's tasks."},
		{Name: CatchupEvents, Key: "job id", Schema: "catchup_event", Partitions: 4, Cleanup: Delete, Retention: 30 * day,
			Producers: []string{"catchup"}, Consumers: []string{"api", "cli"}, Doc: "Progress and end of catch-ups."},
		{Name: CatchupTable, Key: "job id", Schema: "job_state", Partitions: 4, Cleanup: Compact,
			Producers: []string{"catchup"}, Consumers: []string{"catchup", "cli"}, Doc: "State machine of each catch-up (goka group table)."},
		{Name: UsageEvents, Key: "account", Schema: "usage_event", Partitions: 8, Cleanup: Delete, Retention: 7 * day, AppendTime: true,
			Producers: []string{"api", "ingest"}, Consumers: []string{"usage-aggregator", "archiver", "usage-history"}, DeadLetters: true, Doc: "One event per billable call."},
		{Name: UsageContracts, Key: "account", Schema: "contract", Partitions: 8, Cleanup: Compact, AppendTime: true,
			Producers: []string{"api", "cli"}, Consumers: []string{"usage-aggregator", "limiter"}, DeadLetters: true, Doc: "What each account may use."},
		{Name: UsageBaselineRequests, Key: "account", Schema: "baseline_request", Partitions: 8, Cleanup: Delete, Retention: 7 * day,
			Producers: []string{"usage-aggregator"}, Consumers: []string{"usage-history"}, DeadLetters: true, Doc: "Asks for an account's count before a seam."},
		{Name: UsageBaselines, Key: "account", Schema: "baseline", Partitions: 8, Cleanup: Delete, Retention: 7 * day,
			Producers: []string{"usage-history"}, Consumers: []string{"usage-aggregator"}, DeadLetters: true, Doc: "Counts of history up to a seam; the aggregator adds each once."},
		{Name: UsageCounts, Key: "account/pack/period", PartitionBy: 1, Schema: "usage_count", Partitions: 8, Cleanup: Compact, MinCompactionLag: day, AppendTime: true,
			Producers: []string{"usage-aggregator"}, Consumers: []string{"limiter"}, DeadLetters: true, Doc: "Exactly-once counts; the aggregator restores its own from here."},
		{Name: UsageThresholds, Key: "account", Schema: "usage_threshold", Partitions: 8, Cleanup: Delete, Retention: 30 * day,
			Producers: []string{"limiter"}, Consumers: []string{"api"}, Doc: "Thresholds that were crossed or reset."},
		{Name: UsageLimits, Key: "account/pack/period", PartitionBy: 1, Schema: "limit_state", Partitions: 8, Cleanup: Compact,
			Producers: []string{"limiter"}, Consumers: []string{"api", "ingest"}, Doc: "Where each account stands; followed by API layers."},
		{Name: UsageAggregatorChangelog, Key: "store/row key, or marker", Schema: "changelog_entry", Partitions: 8, Cleanup: Compact,
			Producers: []string{"usage-aggregator"}, Consumers: []string{"usage-aggregator"}, Doc: "State of the aggregator; rows and markers are in the partition of the inputs they come from."},
		{Name: LimiterChangelog, Key: "store/row key, or marker", Schema: "changelog_entry", Partitions: 8, Cleanup: Compact,
			Producers: []string{"limiter"}, Consumers: []string{"limiter"}, Doc: "State of the limiter; rows and markers are in the partition of the inputs they come from."},
		{Name: IngestChangelog, Key: "store/row key, or marker", Schema: "changelog_entry", Partitions: 8, Cleanup: Compact,
			Producers: []string{"ingest"}, Consumers: []string{"ingest"}, Doc: "State of ingest's evidence loop: recent requests per record; rows and markers are in the partition of the inputs they come from."},
		{Name: KeysEvents, Key: "account/key id", PartitionBy: 1,
			Schema: "key_event", Partitions: 8, Cleanup: Compact, MaxCompactionLag: day, Pseudonymous: []string{"record_key"},
			Producers: []string{"ingest", "rebuilder", "catchup", "cli"}, Consumers: []string{"ingest", "rebuilder", "catchup", "cli"},
			Doc: "Life of data keys, wrapped, and who has dropped the revoked ones (keys: account/shred.id, with /holder for receipts; _holders/name; _databases/version)."},
	}
}

// Subject is the registry's subject of the topic's values.
func (t Topic) Subject() string { return t.Name + "-value" }

// AvroSchema is the schema of the topic's values, as JSON; empty for raw bytes.
func (t Topic) AvroSchema() string {
	s, _ := Avro(t.Schema)
	return s
}

// DeadLetter is the name of the topic that takes what cannot be processed.
func (t Topic) DeadLetter() string { return t.Name + ".dlq" }

// dead is the dead-letter topic of t: original key, bytes and headers, the reason in more headers.
func (t Topic) dead() Topic {
	return Topic{Name: t.DeadLetter(), Key: t.Key, PartitionBy: t.PartitionBy, Partitions: t.Partitions, Cleanup: Delete, Retention: 30 * day,
		Producers: t.Consumers, Consumers: []string{"cli"}, Personal: t.Personal, Pseudonymous: t.Pseudonymous,
		Doc: "Records of " + t.Name + " that could not be processed, with the reason in their headers."}
}

// WithDeadLetters returns the catalogue with every dead-letter topic behind its source.
func WithDeadLetters() []Topic {
	var all []Topic
	for _, t := range Catalogue() {
		all = append(all, t)
		if t.DeadLetters {
			all = append(all, t.dead())
		}
	}
	return all
}

// Lookup finds a topic of the catalogue, dead-letter topics included.
func Lookup(name string) (Topic, bool) {
	all := WithDeadLetters()
	i := slices.IndexFunc(all, func(t Topic) bool { return t.Name == name })
	if i < 0 {
		return Topic{}, false
	}
	return all[i], true
}

// MustLookup is Lookup for names that are constants of this package.
func MustLookup(name string) Topic {
	t, ok := Lookup(name)
	if !ok {
		panic("topic " + name + " is not in the catalogue")
	}
	return t
}

// JoinKey joins the parts of a key. Parts hold no "/", except that the last one may.
func JoinKey(parts ...string) string { return strings.Join(parts, "/") }

// AppendKey appends the key that JoinKey returns.
func AppendKey(dst []byte, parts ...string) []byte {
	for i, part := range parts {
		if i > 0 {
			dst = append(dst, '/')
		}
		dst = append(dst, part...)
	}
	return dst
}
