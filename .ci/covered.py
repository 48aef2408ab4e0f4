"""Which lines and branches of the library the tests ran: `make coverage` writes .coverage, this prints its shares."""

import json
import subprocess
import sys

command = [sys.executable, "-m", "coverage", "json", "-q", "-o", "-"]
found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
for name, files in sorted(found["files"].items(), key=lambda item: item[1]["summary"]["percent_covered"])[:10]:
    print(f"{files['summary']['percent_covered']:6.1f} %  {name}, not run: lines {files['missing_lines'] or 'none'}")
totals = found["totals"]
print(f"lines    {totals['covered_lines'] / totals['num_statements']:.1%} of {totals['num_statements']}")
print(f"branches {totals['covered_branches'] / totals['num_branches']:.1%} of {totals['num_branches']}")
