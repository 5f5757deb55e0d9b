package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/kmsgate/kmsgate/hsm"
)

// A File is an open database whose records are still sealed. It has to be closed or unsealed.
type File struct {
	path       string
	engine     *boltEngine
	version    int // of the schema; 0 in a new file
	instance   Instance
	complete   bool
	hasDataKey bool
}

// OpenFile opens the file at path and creates it with mode 0600 if it does not exist. It refuses a file
// with a newer schema version. The error for a damaged file is ErrDamaged, and that for a file in use by
// another process is ErrLocked.
func OpenFile(path string) (*File, error) {
	engine, err := openBolt(path)
	if err != nil {
		return nil, fmt.Errorf("opening the database %q: %w", path, err)
	}
	f := &File{path: path, engine: engine}
	if err := engine.view(f.read); err != nil {
		return nil, errors.Join(fmt.Errorf("reading the database %q: %w", path, err), engine.close())
	}
	return f, nil
}

// read reads what is not sealed.
func (f *File) read(tx transaction) (err error) {
	if f.version, err = storedVersion(tx); err != nil {
		return err
	}
	if f.version > schemaVersion {
		return fmt.Errorf("schema version %d is from a newer kmsgate; this one supports up to %d (upgrade kmsgate)",
			f.version, schemaVersion)
	}
	if text := tx.get(bucketMeta, keyInstance); text != nil {
		if err := json.Unmarshal(text, &f.instance); err != nil {
			return unreadable("the instance", err)
		}
	}
	f.hasDataKey = tx.get(bucketMeta, keyDataKey) != nil
	auditKey := tx.get(bucketMeta, keyAuditKey)
	f.complete = auditKey != nil
	if f.version < sealedSince && f.complete {
		var key hsm.Key
		f.complete = json.Unmarshal(auditKey, &key) == nil && key.ID != nil
	}
	return nil
}

// Instance returns the instance that the database belongs to, or the zero Instance before SetInstance.
// Nothing proves it before Unseal has returned.
func (f *File) Instance() Instance { return f.instance }

// Complete reports whether the database has the audit log's key, which is the last that is created for a
// new instance.
func (f *File) Complete() bool { return f.complete }

// Started reports whether the database has a data key, or records of an earlier version: a token was ready.
func (f *File) Started() bool { return f.hasDataKey || f.version > 0 && f.version < sealedSince }

// Sealed reports whether the records are sealed. Those of earlier schema versions are not: nothing shows who
// wrote them.
func (f *File) Sealed() bool { return f.version == 0 || f.version >= sealedSince }

// SetInstance records the instance that a new database belongs to, before there is a data key.
func (f *File) SetInstance(i Instance) error {
	text, err := json.Marshal(i)
	if err != nil {
		return fmt.Errorf("encoding the instance: %w", err)
	}
	if f.Started() {
		return fmt.Errorf("the database %q already belongs to an instance", f.path)
	}
	tx, err := f.engine.begin()
	if err != nil {
		return fmt.Errorf("writing the database %q: %w", f.path, err)
	}
	defer tx.rollback()
	err = errors.Join(tx.put(bucketMeta, keySchema, []byte(strconv.Itoa(schemaVersion))), tx.put(bucketMeta, keyInstance, text))
	if err == nil {
		err = tx.commit()
	}
	if err != nil {
		return fmt.Errorf("writing the database %q: %w", f.path, err)
	}
	f.instance = i
	return nil
}

// Close closes the file.
func (f *File) Close() error { return f.engine.close() }

// Unseal unseals the data key with keys, checks that the records are those of the last change, and returns
// the Store. In a new file it creates the data key. It migrates a file with an older schema version, after
// it has copied the file to PATH.schema-VERSION: see [Store.Migrated]. Without the copy it changes nothing.
// If records were changed by others, the error is ErrTampered. If keys cannot unseal the data key, the
// error is ErrSealed and that of keys. If Unseal returns an error, it has closed the file.
func (f *File) Unseal(ctx context.Context, keys hsm.Sealer, o Options) (*Store, error) {
	s := newStore(f, o)
	var err error
	switch {
	case f.version > 0 && f.version < sealedSince:
		err = s.migrate(ctx, keys, f)
	case !f.hasDataKey:
		err = s.create(ctx, keys, f)
	default:
		err = s.load(ctx, keys)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reading the database %q: %w", f.path, err), f.Close())
	}
	return s, nil
}

// dataKeyUse is what the sealed data key is bound to.
var dataKeyUse = []byte("kmsgate data key 1")

// newDataKey makes and seals a data key.
func (s *Store) newDataKey(ctx context.Context, keys hsm.Sealer) (err error) {
	key := make([]byte, dataKeySize)
	rand.Read(key)
	if s.sealedKey, err = keys.Seal(ctx, key, dataKeyUse); err != nil {
		return fmt.Errorf("sealing the database's key: %w", err)
	}
	s.sealer = newSealer(key)
	return nil
}

// create makes the data key and the head of a new file.
func (s *Store) create(ctx context.Context, keys hsm.Sealer, f *File) error {
	err := f.engine.view(func(tx transaction) error {
		return tx.all(func(bucket, id string, _ []byte) error {
			if !inClear(bucket, id) {
				return tampered("it has records but no key")
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	if err := s.newDataKey(ctx, keys); err != nil {
		return err
	}
	r := newRecords()
	r.instance = f.instance
	return s.reset(r)
}

// reset replaces everything in the engine by records, and publishes them.
func (s *Store) reset(r *Records) error {
	if err := s.engine.rewrite(func(tx transaction) error { return s.fill(tx, r) }); err != nil {
		return err
	}
	s.current.Store(r)
	return nil
}

// fill writes records to an empty transaction, with a head.
func (s *Store) fill(tx transaction, r *Records) error {
	next := head{N: r.number, TxId: s.head.TxId, Schema: schemaVersion}
	err := errors.Join(s.put(tx, &next, place{bucketMeta, keySchema}, []byte(strconv.Itoa(schemaVersion))),
		s.put(tx, &next, place{bucketMeta, keyDataKey}, s.sealedKey))
	if err != nil {
		return err
	}
	err = Dump(r, func(bucket, id string, record any) error {
		value, err := json.Marshal(record)
		if err != nil {
			return fmt.Errorf("encoding record %q for bucket %q: %w", id, bucket, err)
		}
		return s.put(tx, &next, place{bucket, id}, value)
	})
	if err != nil {
		return err
	}
	sealed, err := s.sealer.putHead(tx, next)
	if err == nil {
		s.head, s.sealedHead = next, sealed
	}
	return err
}

// load unseals the data key and reads the records.
func (s *Store) load(ctx context.Context, keys hsm.Sealer) error {
	return s.engine.view(func(tx transaction) error {
		s.sealedKey = bytes.Clone(tx.get(bucketMeta, keyDataKey))
		key, err := keys.Unseal(ctx, s.sealedKey, dataKeyUse)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrSealed, err)
		}
		if len(key) != dataKeySize {
			return tampered("its key has %d bytes, not %d", len(key), dataKeySize)
		}
		s.sealer = newSealer(key)
		if s.head, s.sealedHead, err = s.sealer.readHead(tx); err != nil {
			return err
		}
		if s.head.Schema != schemaVersion {
			return tampered("its head is of schema version %d", s.head.Schema)
		}
		r := newRecords()
		r.number = s.head.N
		if err := tx.all(func(bucket, id string, value []byte) error { return s.loadRecord(r, bucket, id, value) }); err != nil {
			return err
		}
		s.current.Store(r)
		return nil
	})
}

// loadRecord unseals one value and adds it to the records.
func (s *Store) loadRecord(r *Records, bucket, id string, value []byte) (err error) {
	if bucket == bucketMeta && (id == keyHead || id == keySchema || id == keyDataKey) {
		return nil
	}
	if !inClear(bucket, id) {
		if value, err = s.sealer.open(bucket, id, value); err != nil {
			return tampered("record %q in bucket %q: %w", id, bucket, err)
		}
	}
	if bucket == bucketMeta {
		field, ok := metaFields(r)[id]
		if !ok {
			return unreadable(fmt.Sprintf("record %q in bucket %q", id, bucket), errors.New("there is no such record"))
		}
		if err := json.Unmarshal(value, field); err != nil {
			return unreadable(fmt.Sprintf("record %q in bucket %q", id, bucket), err)
		}
		return nil
	}
	k, ok := kindOf[bucket]
	if !ok {
		return unreadable(fmt.Sprintf("bucket %q", bucket), errors.New("there is no such bucket"))
	}
	return k.load(r, id, value)
}

// unreadable returns the error for a record that cannot be decoded.
func unreadable(record string, err error) error {
	return fmt.Errorf("%w: decoding %s: %w %s", ErrDamaged, record, err, restoreAdvice)
}
