"""The command line: arguments in, a request to the pipeline, a rendered result out."""
