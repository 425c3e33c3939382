package event

//go:generate sh -c "cd ../../tools && GOWORK=off go tool avrogen -pkg event -strict-types -enums -pkgdoc 'Package event holds the Go types of every event, generated from schemas/avro by avrogen.' -o ../schemas/event/event.gen.go ../schemas/avro/*.avsc"
