package kms

type CreateBackupRequest struct {
	Recipients []string `kms:"required"`
}

// A RegionItem is a region as lists show it.
type RegionItem struct{ RegionId string }

type DescribeRegionsResponse struct {
	Result
	Regions struct{ Region []RegionItem }
}

type DescribeAccountKmsStatusResponse struct {
	Result
	AccountStatus string
}

type GetKmsInstanceRequest struct {
	KmsInstanceId string `kms:"required"`
}

// A BindVpc is a VPC that an instance is bound to. The gateway has none.
type BindVpc struct{ RegionId, VSwitchId, VpcId, VpcOwnerId string }

// A KmsInstance is the instance as the API shows it. Members that do not apply to the
// gateway, such as VPCs and the end date, are empty.
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

type GetKmsInstanceResponse struct {
	Result
	KmsInstance KmsInstance
}

type ListKmsInstancesRequest struct {
	PageNumber *int `kms:"min=1"`
	PageSize   *int `kms:"min=1,max=100"`
}

// A KmsInstanceItem is an instance as lists show it.
type KmsInstanceItem struct {
	KmsInstanceArn string
	KmsInstanceId  string
}

type ListKmsInstancesResponse struct {
	Result
	KmsInstances struct{ KmsInstance []KmsInstanceItem }
	PageInfo
}

type GetAuditHeadResponse struct {
	Result
	Head string
}
