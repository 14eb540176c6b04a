"""A small invented state to try Exclave on: its registers' data and web applications, all made from one seed."""
