package kms

// CreateBackupRequest holds the parameters of CreateBackup.
type CreateBackupRequest struct {
	Recipients []string `kms:"required"`
}

// A RegionItem is a region in a list.
type RegionItem struct{ RegionId string }

// DescribeRegionsResponse is the answer to DescribeRegions.
type DescribeRegionsResponse struct {
	Result
	Regions struct{ Region []RegionItem }
}

// DescribeAccountKmsStatusResponse is the answer to DescribeAccountKmsStatus.
type DescribeAccountKmsStatusResponse struct {
	Result
	AccountStatus string
}

// GetKmsInstanceRequest holds the parameters of GetKmsInstance.
type GetKmsInstanceRequest struct {
	KmsInstanceId string `kms:"required"`
}

// A BindVpc is a VPC that an instance is bound to. The gateway's instance is bound to none.
type BindVpc struct{ RegionId, VSwitchId, VpcId, VpcOwnerId string }

// A KmsInstance describes the instance. Members that do not apply to the gateway, such as VPCs and
// the end date, are empty.
type KmsInstance struct {
	BindVpcs              struct{ BindVpc []BindVpc }
	CaCertificateChainPem string
	CreateTime            string
	EndDate               string
	InstanceId            string
	InstanceName          string
	KeyNum                int64
	SecretNum             string
	Spec                  int64
	StartDate             string
	Status                string
	VpcId                 string
	VpcNum                int64
	VswitchIds            string
	ZoneIds               string
}

// GetKmsInstanceResponse is the answer to GetKmsInstance.
type GetKmsInstanceResponse struct {
	Result
	KmsInstance KmsInstance
}

// ListKmsInstancesRequest holds the parameters of ListKmsInstances.
type ListKmsInstancesRequest struct {
	PageNumber *int `kms:"min=1"`
	PageSize   *int `kms:"min=1,max=100"`
}

// A KmsInstanceItem is an instance in a list.
type KmsInstanceItem struct {
	KmsInstanceArn string
	KmsInstanceId  string
}

// ListKmsInstancesResponse is the answer to ListKmsInstances.
type ListKmsInstancesResponse struct {
	Result
	KmsInstances struct{ KmsInstance []KmsInstanceItem }
	PageInfo
}

// GetAuditHeadResponse is the answer to GetAuditHead.
type GetAuditHeadResponse struct {
	Result
	Head string
}

// A ClockState says whether the gateway believes this machine's clock.
type ClockState struct {
	Time     string // what the clock shows
	Believed bool
	Reason   string // why it is not believed
	KeysDue  int    // keys whose deletion is due; they are deleted only while the clock is believed
}

// DescribeClockResponse is the answer to DescribeClock.
type DescribeClockResponse struct {
	Result
	Clock ClockState
}
