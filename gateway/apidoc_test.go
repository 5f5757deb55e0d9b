package gateway

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kmsgate/kmsgate/gateway/kms"
)

// differences says how operations differ from Alibaba Cloud KMS's.
var differences = map[string]string{
	"AsymmetricVerify":         "A malformed signature is `Value: false`.",
	"CreateKey":                "KeySpec is required: KMS's default is a symmetric key. Making an RSA_4096 pair takes seconds, and Node's SDKs give up after 3 s unless told otherwise. EC_SM2 keys are software keys, so ProtectionLevel HSM is refused for them; the default is HSM for all others. Automatic rotation, EXTERNAL origin and ENCRYPT/DECRYPT are refused.",
	"CreateKeyVersion":         "It works on an instance, too; KMS has it for keys outside of instances only. The interval between versions is configuration.",
	"DescribeKey":              "PrimaryKeyVersion, and all that is about rotation or imported material, is empty.",
	"GetKeyPolicy":             "Of a key that none was set for it shows KMS's default policy, which by itself allows nobody anything here.",
	"SetKeyPolicy":             "Resource has to be `[\"*\"]`. An Allow lets users of the account in besides their own policies, a Deny of either wins. `acs:ram::<account>:*` means all users, not the root whom a local administrator is, so that nobody locks out everybody.",
	"CancelKeyDeletion":        "The key is Enabled afterwards, whatever it was before.",
	"GetKmsInstance":           "What is about VPCs and terms is empty. CaCertificateChainPem is the CA to trust.",
	"ScheduleKeyDeletion":      "A protected key: Rejected.StateModifiedFailed.",
	"TagResource":              "Keys only, at most 20 tags each.",
	"TagResources":             "RegionId has to be the instance's, ResourceType key; at most 50 keys, 20 tags each. All or nothing.",
	"UntagResources":           "As TagResources.",
	"ListTagResources":         "NextToken is a KeyId. Without ResourceId, keys that the caller may not see are left out.",
	"OpenKmsService":           "There is nothing to open: it succeeds.",
	"DescribeAccountKmsStatus": "Always Enabled.",

	"CreateNetworkRule":            "SourcePrivateIp is required: 1 to 100 addresses and prefixes, of IPv4 and IPv6. At most 1,000 rules. A Name that is taken: Rejected.ResourceExist.",
	"UpdateNetworkRule":            "It holds for the next request. So do all other changes of what client keys may do, which take KMS up to five minutes.",
	"DeleteNetworkRule":            "A rule that policies name can be deleted: it lets nobody in then.",
	"CreatePolicy":                 "CryptoServiceKeyUser permits AsymmetricSign, AsymmetricVerify and GetPublicKey with the keys in Resources, and GenerateRandom; CryptoServiceSecretUser permits nothing. Network rules have to exist, keys have not. Without AccessControlRules all addresses are let in. At most 1,000 policies.",
	"UpdatePolicy":                 "AccessControlRules without a network rule, `{}`, lets all addresses in.",
	"DeletePolicy":                 "A policy that access points name can be deleted: it permits nothing then.",
	"CreateApplicationAccessPoint": "The policies have to exist. At most 1,000 access points. A key's own policy can deny an access point something, as one of `acs:ram::<account>:*`, and cannot allow it anything.",
	"CreateClientKey":              "The PKCS#12 has 10,000 iterations. At most 10,000 client keys.",
	"ListClientKeys":               "Without AapName it takes the right on `applicationaccesspoint/*`.",
}

// nativeDifferences says what operations of the native API do that are not done like
// one of the RPC API.
var nativeDifferences = map[string]string{
	"Sign":           "as AsymmetricSign, of a message: RAW, hashed here (for SM2 with the default user id), or DIGEST",
	"Verify":         "as AsymmetricVerify, of a message",
	"GenerateRandom": "1 to 1,024 bytes that the token makes. A token without a generator, or one that repeats itself: UnsupportedOperation",
}

// APIDoc writes docs/api.md: every operation of KMS, supported or not, and every
// error. A test holds the file to it.
func APIDoc() string {
	var b strings.Builder
	b.WriteString(`# The API

Made from the gateway's own tables: do not edit, but run ` + "`go test ./gateway -run TestAPIDoc -update`" + `.

## Operations

Of API version 2016-01-20, as in kms-20160120 v3.2.3 and v4.1.0. Every operation obeys ` + "`DryRun=true`" + `, takes its parameters in the query
or a form, lists as ` + "`Name.1`" + ` or as JSON, and answers in JSON or XML as ` + "`Format`" + ` says. Wherever a KeyId is taken, an alias or an ARN of this region and account
is, too.

| operation | supported | differences from Alibaba Cloud KMS |
|---|---|---|
`)
	all := make(map[string]bool)
	for name, o := range operations {
		if o.door == rpcDoor {
			all[name] = true
		}
	}
	for _, name := range unsupported {
		all[name] = false
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if all[name] {
			fmt.Fprintf(&b, "| %s | yes | %s |\n", name, differences[name])
		} else {
			fmt.Fprintf(&b, "| %s | no | UnsupportedOperation |\n", name)
		}
	}
	b.WriteString(`
## Errors

Answers have HttpStatus, Code, Message, RequestId and HostId. Messages of answers go on, to name the parameter or the reason.

| HTTP | Code | Message begins |
|---|---|---|
`)
	for _, e := range kms.Errors() {
		fmt.Fprintf(&b, "| %d | %s | %s |\n", e.Status, e.Code, e.Message)
	}
	b.WriteString(`
## The native API

Protobuf over POST, as the KMS Instance SDK (dkms-gcs 0.2) speaks it: see [native.proto](../gateway/nativepb/native.proto). Other ApiNames answer
UnsupportedOperation. DryRun is not known there.

| ApiName | |
|---|---|
`)
	for _, name := range slices.Sorted(maps.Keys(nativeOperations)) {
		what := "as " + nativeOperations[name].operation
		if difference, ok := nativeDifferences[name]; ok {
			what = difference
		}
		fmt.Fprintf(&b, "| %s | %s |\n", name, what)
	}
	b.WriteString(`
An unknown alias is Forbidden.KeyNotFound, a body that cannot be read InvalidParameter. Besides the errors above it has

| HTTP | Code | Message begins |
|---|---|---|
`)
	for _, e := range kms.NativeErrors() {
		fmt.Fprintf(&b, "| %d | %s | %s |\n", e.Status, e.Code, e.Message)
	}
	b.WriteString(`
## Precedence

Of several that a request deserves it gets the first, in this order: route and method, plain HTTP, size, malformed parameters,
signature (incomplete, method, token, time, access key, value, nonce), action, quota, single parameters, permission, existence of alias, key and
version, state, usage, fitness of algorithm and digest, limits, the token.
`)
	return b.String()
}
