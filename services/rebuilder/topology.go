package rebuilder

import (
	"databus/pkg/job"
	"databus/schemas"
)

// Name of the service.
const Name = "rebuilder"

// Topics of the service's jobs.
func Topics() job.Topics {
	return job.Topics{
		Requests: schemas.RebuildRequests, Tasks: schemas.RebuildTasks, Results: schemas.RebuildResults, Events: schemas.RebuildEvents,
		Table: schemas.RebuilderTable, DeadLetters: true,
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
		{Kind: schemas.Table, Topic: schemas.ArchiveFiles, Doc: "which objects to read"},
		{Kind: schemas.Table, Topic: schemas.IdentityGraphs},
		{Kind: schemas.Table, Topic: schemas.KeysEvents},
		{Kind: schemas.Sink, Topic: schemas.KeysEvents, Doc: "that it holds keys, and has dropped revoked ones"},
		{Kind: schemas.Table, Topic: schemas.DatabusDatabases, Doc: "the serving version's graph"},
		{Kind: schemas.Sink, Topic: schemas.DatabusDatabases, Doc: "BUILDING, LOADED, FAILED"},
	}}
}
