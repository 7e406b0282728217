"""The benchmarks of tool calling that ToolRL is measured on: API-Bank, Bamboogle, BFCL."""
