package catchup

import (
	"databus/pkg/job"
	"databus/schemas"
)

// Name of the service.
const Name = "catchup"

// Topics of the service's jobs.
func Topics() job.Topics {
	return job.Topics{
		Requests: schemas.CatchupRequests, Tasks: schemas.CatchupTasks, Results: schemas.CatchupResults, Events: schemas.CatchupEvents,
		Table: schemas.CatchupTable, DeadLetters: true,
	}
}

// Topology is the service's place in the data flow.
func Topology() schemas.Topology {
	t := Topics()
	return schemas.Topology{Service: Name, Edges: []schemas.Edge{
		{Kind: schemas.Source, Topic: t.Requests, Group: t.Group(), Doc: "coordinator"},
		{Kind: schemas.DeadLetter, Topic: schemas.MustLookup(t.Requests).DeadLetter()},
		{Kind: schemas.Loop, Topic: t.Tasks, Group: t.WorkerGroup(), Doc: "from the coordinator to the workers"},
		{Kind: schemas.Loop, Topic: t.Results, Group: t.Group(), Doc: "from the workers to the coordinator"},
		{Kind: schemas.DeadLetter, Topic: schemas.MustLookup(t.Results).DeadLetter()},
		{Kind: schemas.Changelog, Topic: t.Table, Doc: "a row a job"},
		{Kind: schemas.Sink, Topic: t.Events, Doc: "progress and end"},
		{Kind: schemas.Source, Topic: schemas.DatabusRecords, Group: "ingest.applier.<database version>", Doc: "up to the trigger, while the group has no members"},
		{Kind: schemas.Table, Topic: schemas.ArchiveFiles, Doc: "what retention has dropped"},
		{Kind: schemas.Table, Topic: schemas.IdentityGraphs},
		{Kind: schemas.Table, Topic: schemas.KeysEvents},
		{Kind: schemas.Sink, Topic: schemas.KeysEvents, Doc: "that it holds keys, and has dropped revoked ones"},
		{Kind: schemas.Table, Topic: schemas.DatabusDatabases},
		{Kind: schemas.Sink, Topic: schemas.DatabusDatabases, Doc: "STANDBY"},
	}}
}
