#include "console.h"
#include "hello.h"

/* Whether text has word, set off by blanks or the text's ends. */
static int has_word(const char *text, const char *word)
{
	while (*text) {
		const char *w = word;

		while (*text == ' ')
			text++;
		while (*w && *text == *w)
			text++, w++;
		if (!*w && (*text == ' ' || !*text))
			return 1;
		while (*text && *text != ' ')
			text++;
	}
	return 0;
}

void hello(const char *mode, const char *command_line)
{
	print("\nhello from a unikernel\nboot mode: ");
	print(mode);
	print("\ncommand line: [");
	print(command_line);
	print("]\n");

	if (has_word(command_line, "stay")) {
		print("staying\n");
		sleep_for_ever();
	}
	if (has_word(command_line, "crash")) {
		print("crashing\n");
		crash();
	}
	if (has_word(command_line, "reboot")) {
		print("rebooting\n");
		reboot();
	}
	print("shutting down\n");
	power_off();
}
