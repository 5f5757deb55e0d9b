package batch

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/kmsgate/kmsgate/hsm"
)

// A Request is a line of a list. Key is required, and either Digest or File.
type Request struct {
	Id        string // repeated in the result
	Key       string // a KeyId, an alias or an ARN
	Version   string // if empty, the newest when the batch first asks for the key
	Algorithm string // if empty, the first of the KeySpec
	Digest    string // 64 hexadecimal digits
	File      string // a path; the file is hashed
	SM2Id     string // for File and SM2DSA; if empty, hsm.DefaultSM2ID
}

// decodeRequest decodes a line of a list. It refuses a member that occurs twice, is unknown or is
// spelled in another letter case: other programs could read another request.
func decodeRequest(text []byte) (r Request, err error) {
	members := map[string]*string{"Id": &r.Id, "Key": &r.Key, "Version": &r.Version, "Algorithm": &r.Algorithm,
		"Digest": &r.Digest, "File": &r.File, "SM2Id": &r.SM2Id}
	d := json.NewDecoder(bytes.NewReader(text))
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return r, errors.New("it is no JSON object")
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return r, err
		}
		member := members[fmt.Sprint(name)]
		if member == nil {
			return r, fmt.Errorf("it has an unknown member, or one twice: %q", name)
		}
		delete(members, fmt.Sprint(name))
		if err := d.Decode(member); err != nil {
			return r, err
		}
	}
	if _, err := d.Token(); err != nil {
		return r, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return r, errors.New("something follows the object")
	}
	if len(r.Id) > maxId {
		return r, fmt.Errorf("the Id has more than %d bytes", maxId)
	}
	if r.Key == "" {
		return r, errors.New("it has no Key")
	}
	return r, nil
}

// check refuses a request that says too little or too much of what a key of spec signs.
func (r Request) check(spec hsm.KeySpec) error {
	switch {
	case (r.Digest == "") == (r.File == ""):
		return errors.New("the request must have either Digest or File")
	case r.Digest != "" && r.SM2Id != "":
		return errors.New("SM2Id and Digest exclude each other: the digest contains the id")
	case r.SM2Id != "" && spec != hsm.EC_SM2:
		return fmt.Errorf("SM2Id is for SM2, and this key is %s", spec)
	}
	return nil
}

// digest returns what a key signs for the request.
func (r Request) digest(ctx context.Context, k hsm.Key, alg hsm.Algorithm) ([]byte, error) {
	if err := r.check(k.Spec); err != nil {
		return nil, err
	}
	if r.Digest == "" {
		return r.hashFile(ctx, k, alg)
	}
	digest, err := hex.DecodeString(r.Digest)
	if err != nil || len(digest) != hsm.DigestSize {
		return nil, fmt.Errorf("the Digest must have %d hexadecimal digits", 2*hsm.DigestSize)
	}
	return digest, nil
}

// hashFile returns the digest of the request's file, which must be regular. It does not wait for the
// writer of a pipe, and ends with ctx.
func (r Request) hashFile(ctx context.Context, k hsm.Key, alg hsm.Algorithm) ([]byte, error) {
	h, err := hsm.NewDigest(k, alg, cmp.Or(r.SM2Id, hsm.DefaultSM2ID))
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(r.File, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%q is not a regular file", r.File)
	}
	_, err = io.Copy(h, reader(func(b []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return file.Read(b)
	}))
	return h.Sum(nil), err
}

type reader func(b []byte) (int, error)

func (r reader) Read(b []byte) (int, error) { return r(b) }
