"""What a custom runtime of MLServer imports as `mlserver`: its types, codecs, errors and `MLModel`, without MLServer.

`names.install` puts these modules into `sys.modules` under MLServer's names, in the process that loads such a class and
in no other. They need numpy; pandas is imported by the codecs that make a frame.
"""
