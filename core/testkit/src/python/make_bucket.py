import sys

import boto3

endpoint, region, name = sys.argv[1:]
boto3.client("s3", endpoint_url=endpoint, region_name=region).create_bucket(Bucket=name)
